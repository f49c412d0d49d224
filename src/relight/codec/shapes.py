"""The fields of a class, for classes whose instances the codec takes apart and puts together itself.

Owns what dataclasses, structs, named tuples and typed dicts have in common: names, annotations (with the type
variables of generic classes filled in), the stored form that msgspec gives them, and how to build one again.
Must not know how fields are encoded: that is ``plan.py``.
"""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from relight.codec.trims import NO_DEFAULT, default_of

Values = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Field:
    """One field: its name in Python, its key in the stored object, its annotation, and its default if it has a plain one."""

    name: str
    key: str
    annotation: Any
    default: Any = NO_DEFAULT


@dataclass(frozen=True, slots=True)
class Shape:
    """How instances of one class are read and built.

    ``read`` returns a field's value, or ``UNSET`` for one that is not there. ``as_list`` says that the stored form is
    an array in field order; ``tag`` is the pair (or, in an array, the first element) that a tagged struct carries.
    ``own`` says that ``build`` keeps what msgspec would lose.
    """

    cls: type
    fields: tuple[Field, ...]
    read: Callable[[Any, str], Any]
    build: Callable[[Values], Any]
    as_list: bool = False
    tag: tuple[str, Any] | None = None
    own: bool = False

    def write(self, values: Values) -> Any:
        """Arrange encoded field values, by key, in the stored form that msgspec reads for this class."""
        if self.as_list:
            return [*(self.tag or ())[1:], *values.values()]
        return values if self.tag is None else {self.tag[0]: self.tag[1], **values}

    def by_key(self, stored: Any) -> Mapping[str, Any]:
        """Return a stored form's field values by key. Raises ``TypeError`` when it has another form."""
        if type(stored) is not (list if self.as_list else dict):
            raise TypeError(f"Expected `{'array' if self.as_list else 'object'}`, got `{type(stored).__name__}`")
        if not self.as_list:
            return typing.cast("dict[str, Any]", stored)
        return dict(zip((f.key for f in self.fields), stored[1 if self.tag else 0 :], strict=False))


def shape_of(cls: type, arguments: tuple[Any, ...]) -> Shape | None:
    """Take a class apart; ``arguments`` are what a generic one is subscripted with. None when it has no fields.

    Raises ``NameError`` or ``TypeError`` when an annotation cannot be resolved.
    """
    if dataclasses.is_dataclass(cls):
        return _of_dataclass(cls, arguments)
    if issubclass(cls, msgspec.Struct):
        return _of_struct(cls, arguments)
    if typing.is_typeddict(cls):
        hints = field_hints(cls, arguments)
        keys = tuple(Field(n, n, t) for n, t in hints.items())
        return Shape(dict, keys, lambda value, name: value.get(name, msgspec.UNSET), lambda values: values)
    if issubclass(cls, tuple) and hasattr(cls, "_fields"):
        hints = field_hints(cls, arguments)
        defaults = getattr(cls, "_field_defaults", {})
        fields = tuple(Field(n, n, hints.get(n, Any), defaults.get(n, NO_DEFAULT)) for n in cls._fields)
        return Shape(cls, fields, getattr, lambda values: cls(**values), as_list=True)
    return None


def _of_dataclass(cls: type, arguments: tuple[Any, ...]) -> Shape:
    hints = field_hints(cls, arguments)
    if any(isinstance(hint, dataclasses.InitVar) for hint in hints.values()):
        raise TypeError("its InitVar parameters would be lost")
    fields = dataclasses.fields(cls)
    is_exception = issubclass(cls, BaseException)
    # An exception gets its fields by position, because ``BaseException.__new__`` makes ``args`` of them.
    positional = [f.name for f in fields if f.init and not f.kw_only] if is_exception else []
    named = [f.name for f in fields if f.init and f.name not in positional]

    def build(values: Values) -> Any:
        left = [values[name] for name in itertools.takewhile(values.__contains__, positional)]
        made = cls(*left, **{name: values[name] for name in (*positional[len(left) :], *named) if name in values})
        for name, value in values.items():  # once more, because __post_init__ ran already when they were first made
            object.__setattr__(made, name, value)
        return made

    missing = dataclasses.MISSING
    keys = tuple(
        Field(f.name, f.name, hints[f.name], default_of(f.default, f.default_factory, missing)) for f in fields
    )
    return Shape(cls, keys, getattr, build, own=is_exception or hasattr(cls, "__post_init__"))


def _of_struct(cls: type[msgspec.Struct], arguments: tuple[Any, ...]) -> Shape:
    hints = field_hints(cls, arguments)
    fields = tuple(
        Field(f.name, f.encode_name, hints[f.name], default_of(f.default, f.default_factory))
        for f in msgspec.structs.fields(cls)
    )
    config = cls.__struct_config__
    tag = None if config.tag is None else (config.tag_field or "type", config.tag)

    def build(values: Values) -> Any:
        made = cls(**values)
        for name, value in values.items():  # as for dataclasses
            msgspec.structs.force_setattr(made, name, value)
        return made

    own = hasattr(cls, "__post_init__")
    return Shape(cls, fields, getattr, build, as_list=config.array_like, tag=tag, own=own)


def field_hints(cls: type, arguments: tuple[Any, ...]) -> dict[str, Any]:
    """Resolve the annotations of a class and its bases, with type variables replaced by what they stand for."""
    hints = typing.get_type_hints(cls, include_extras=True)
    bound: dict[type, dict[Any, Any]] = {}
    _bind(cls, arguments, bound)
    resolved = {}
    for name, hint in hints.items():
        owner = next((c for c in cls.__mro__ if name in inspect.get_annotations(c)), cls)
        everything = {k: v for b in bound.values() for k, v in b.items()}
        resolved[name] = substitute(hint, {**everything, **bound.get(owner, {})})
    return resolved


def _bind(cls: Any, arguments: tuple[Any, ...], bound: dict[type, dict[Any, Any]]) -> None:
    own = dict(zip(getattr(cls, "__parameters__", ()), arguments, strict=False))
    bound[cls] = own
    for base in getattr(cls, "__orig_bases__", ()):
        origin = typing.get_origin(base)
        if isinstance(origin, type) and origin is not typing.Generic:
            _bind(origin, tuple(substitute(a, own) for a in typing.get_args(base)), bound)


def substitute(annotation: Any, bound: Mapping[Any, Any]) -> Any:
    """Replace the type variables in an annotation; one that is bound to nothing stands for its limit, or ``Any``."""
    if isinstance(annotation, TypeVar):
        return bound[annotation] if annotation in bound else limit(annotation)
    parameters = getattr(annotation, "__parameters__", ())
    if not parameters or isinstance(annotation, type):
        return annotation
    return annotation[tuple(substitute(p, bound) for p in parameters)]


def limit(variable: TypeVar) -> Any:
    """Return what a type variable may at most be: its bound, the union of its constraints, or ``Any``."""
    if variable.__constraints__:
        return typing.Union[variable.__constraints__]  # noqa: UP007  (a tuple known only at run time)
    return Any if variable.__bound__ is None else variable.__bound__

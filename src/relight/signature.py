"""A function's signature, compiled once: arguments to stored inputs and hashes, and back.

Owns how arguments are bound. Promise: how a call is spelled does not matter. Arguments are bound to the parameters'
names, and those equal to their default are left out, so positional or keyword, and a new parameter with a default,
change neither the stored inputs nor the hashes of jobs under way. Each argument has a hash of its own, so that a
mismatch at replay can say which one moved.

``inputs`` is one JSON object, ``{"url": "https://…", "args": [1, 2]}``: parameters in the order of the signature,
``*args`` and ``**kwargs`` under their names, empty ones left out.

Must not know about steps or workflows; ``what`` is the name to speak of in errors. Read next: ``codec/values.py``.
"""

from __future__ import annotations

import ast
import functools
import inspect
import linecache
import os
import re
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import msgspec

from relight.codec import CodecRegistry, ValueCodec, canonical_hash
from relight.codec.faults import show
from relight.errors import InvalidArgument, NotSerializable, PayloadError, PayloadTooLarge, RegistrationError

__all__ = ["Bound", "Signature", "canonical_hash"]

_EMPTY: Final = inspect.Parameter.empty
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
_NO_KEYWORDS: Mapping[str, Any] = {}
_split = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class Bound:
    """Arguments in their stored form: ``inputs``, one JSON object, and a hash for each argument in it."""

    __slots__ = ("hashes", "inputs")

    def __init__(self, inputs: bytes, hashes: dict[str, str]) -> None:
        self.inputs = inputs
        self.hashes = hashes

    def __repr__(self) -> str:
        return f"Bound({self.inputs[:200]!r})"


class _Parameter:
    """One parameter: its codec, and what is needed to see quickly whether an argument equals its default."""

    __slots__ = ("codec", "default", "default_hash", "head", "kind", "name", "required", "what")

    def __init__(self, parameter: inspect.Parameter, codec: ValueCodec, what: str) -> None:
        self.name = parameter.name
        self.kind = parameter.kind
        self.codec = codec
        self.what = what
        self.head = msgspec.json.encode(parameter.name) + b":"
        self.default: Any = parameter.default
        self.default_hash: str | None = None
        self.required = parameter.default is _EMPTY and parameter.kind not in _VARIADIC
        if parameter.default is not _EMPTY:
            try:
                self.default_hash = codec.hash(codec.encode(parameter.default, what=what))
            except NotSerializable:
                pass  # a sentinel, say: never stored, and recognised by identity


class Signature:
    """Binds and loads the arguments of one function, and knows the codec of its result.

    ``what`` is the name of the function in errors. ``skip_self`` leaves the first parameter of a method out.
    ``result`` is the codec of what it returns (for ``async def``: of what awaiting it gives), ``is_async`` its colour,
    ``names`` its parameters. Raises ``RegistrationError`` when annotations cannot be resolved or stored, for
    generators, and for functions that are generic in their result.
    """

    __slots__ = (
        *("_by_name", "_fewest", "_max_bytes", "_most", "_parameters", "_positional", "_signature"),
        *("is_async", "names", "result", "what"),
    )

    def __init__(self, fn: Callable[..., Any], registry: CodecRegistry, *, what: str, skip_self: bool = False) -> None:
        target = _unwrapped(fn)
        place = f"{what}{_place(target)}"
        refuse_generators(target, place)
        hints = _hints(target, place)
        signature = inspect.signature(fn)
        parameters = list(signature.parameters.values())[1 if skip_self else 0 :]
        self.what = what
        self.is_async = inspect.iscoroutinefunction(target)
        self.result = registry.for_type(_result(hints, place), what=f"result of {place}")
        self.names = tuple(p.name for p in parameters)
        self._signature = signature.replace(parameters=parameters)
        self._parameters = tuple(self._compiled(p, hints, registry, place) for p in parameters)
        self._by_name = {p.name: p for p in self._parameters}
        self._positional = tuple(p for p in self._parameters if p.kind in _POSITIONAL)
        self._fewest = sum(p.required for p in self._positional)
        keyword_required = any(p.required for p in self._parameters if p.kind is inspect.Parameter.KEYWORD_ONLY)
        self._most = -1 if keyword_required else len(self._positional)
        self._max_bytes = registry.max_payload_bytes

    def _compiled(
        self, parameter: inspect.Parameter, hints: Mapping[str, Any], registry: CodecRegistry, place: str
    ) -> _Parameter:
        annotation = _stored_annotation(parameter, hints.get(parameter.name, Any))
        codec = registry.for_type(annotation, what=f'argument "{parameter.name}" of {place}')
        return _Parameter(parameter, codec, f'argument "{parameter.name}" of {self.what}')

    def bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any] = _NO_KEYWORDS) -> Bound:
        """Bind the arguments of a call and write them.

        Raises ``InvalidArgument`` where Python would raise ``TypeError``, ``NotSerializable`` and ``PayloadTooLarge``.
        Cost: about 1 µs, and 1 µs for each small argument.
        """
        if kwargs or not self._fewest <= len(args) <= self._most:
            pairs = self._bound(args, kwargs)
        else:
            pairs = zip(self._positional, args, strict=False)
        pieces = []
        hashes = {}
        for parameter, value in pairs:
            if value is parameter.default:
                continue
            data = parameter.codec.encode(value, what=parameter.what)
            digest = parameter.codec.hash(data)
            if digest != parameter.default_hash:
                pieces.append(parameter.head + data)
                hashes[parameter.name] = digest
        inputs = b"{" + b",".join(pieces) + b"}"
        if len(inputs) > self._max_bytes:
            size = f"{len(inputs) / 2**20:,.1f} MiB, more than max_payload_bytes ({self._max_bytes / 2**20:,.1f} MiB)"
            raise PayloadTooLarge(f"the arguments of {self.what} have {size}. Write them to files and pass their Paths")
        return Bound(inputs, hashes)

    def _bound(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Iterable[tuple[_Parameter, Any]]:
        try:
            bound = self._signature.bind(*args, **kwargs)
        except TypeError as error:
            raise InvalidArgument(f"{self.what}{self._spelled()}: {error}") from None
        return [(self._by_name[name], value) for name, value in bound.arguments.items()]

    def _spelled(self) -> str:
        names = [p.replace(annotation=_EMPTY) for p in self._signature.parameters.values()]
        return str(inspect.Signature(names))

    def codec_of(self, name: str) -> ValueCodec:
        """Return the codec of a parameter's values (of ``*args`` the whole list). Raises ``KeyError``."""
        return self._by_name[name].codec

    def load(self, inputs: bytes) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Read stored inputs as ``(args, kwargs)`` for a call; defaults are left to Python.

        Raises ``PayloadError`` for a parameter that the function does not have, one that is missing and has no
        default, and a value that does not fit.
        """
        values = self._values(inputs)
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        by_position = self._by_position(values)
        for i, parameter in enumerate(self._parameters):
            there = parameter.name in values
            if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
                args += values.get(parameter.name, ())
            elif parameter.kind is inspect.Parameter.VAR_KEYWORD:
                kwargs |= values.get(parameter.name, {})
            elif i < by_position:
                args.append(values[parameter.name] if there else parameter.default)
            elif there:
                kwargs[parameter.name] = values[parameter.name]
        return tuple(args), kwargs

    def hashes_of(self, inputs: bytes) -> dict[str, str]:
        """Return the hash of each stored argument, as ``bind`` gives them: those equal to their default are left out.

        Arguments stored before a class gained a field with a default have the hashes of those stored after.
        """
        found = {}
        for name, raw in msgspec.json.decode(inputs, type=dict[str, msgspec.Raw]).items():
            parameter = self._by_name.get(name)
            digest = canonical_hash(bytes(raw)) if parameter is None else parameter.codec.hash(bytes(raw))
            if parameter is None or digest != parameter.default_hash:
                found[name] = digest
        return found

    def _values(self, inputs: bytes) -> dict[str, Any]:
        try:
            stored = _split(inputs)
        except msgspec.MsgspecError as error:
            raise PayloadError(f"the stored inputs of {self.what} cannot be read: {error}") from error
        for name in stored:
            if name not in self._by_name:
                known = ", ".join(self.names) or "none"
                raise PayloadError(f'{self.what} has no parameter "{name}", but its stored inputs do (it has: {known})')
        for p in self._parameters:
            if p.required and p.name not in stored:
                raise PayloadError(f'the stored inputs of {self.what} lack "{p.name}", which has no default')
        return {
            name: self._by_name[name].codec.decode(raw, what=self._by_name[name].what) for name, raw in stored.items()
        }

    def _by_position(self, values: Mapping[str, Any]) -> int:
        """Return how many parameters must be passed by position, defaults in between included.

        These are all before a first gap, all before the last positional-only one that is there, and all before the
        values of ``*args``.
        """
        count = len(self._positional)
        if any(p.kind is inspect.Parameter.VAR_POSITIONAL and p.name in values for p in self._parameters):
            return count
        gap = next((i for i, p in enumerate(self._positional) if p.name not in values), count)
        only = [i + 1 for i, p in enumerate(self._positional) if p.kind is p.kind.POSITIONAL_ONLY and p.name in values]
        return max(gap, *only) if only else gap


def _unwrapped(fn: Callable[..., Any]) -> Callable[..., Any]:
    while isinstance(fn, functools.partial):
        fn = fn.func
    unwrapped: Callable[..., Any] = inspect.unwrap(fn)
    return unwrapped


def _place(fn: Callable[..., Any]) -> str:
    """Say where a function stands, as `` (flows/index.py:12)``; empty when it has no source file."""
    code = getattr(fn, "__code__", None)
    return "" if code is None else f" ({_shown_path(code.co_filename)}:{code.co_firstlineno})"


def _shown_path(path: str) -> str:
    here = os.path.relpath(path) if path.startswith(os.getcwd() + os.sep) else path
    return here if len(here) < len(path) else path


def refuse_generators(fn: Callable[..., Any], place: str, what: str = "step") -> None:
    """Refuse what gives many values, with ``RegistrationError``."""
    kind = "n async" if inspect.isasyncgenfunction(fn) else "" if inspect.isgeneratorfunction(fn) else None
    if kind is not None:
        raise RegistrationError(
            f"{place} is a{kind} generator; a {what} returns one value. publish() the parts and return the whole"
        )


def _hints(fn: Callable[..., Any], place: str) -> dict[str, Any]:
    try:
        return typing.get_type_hints(fn, include_extras=True)
    except NameError as error:
        raise RegistrationError(_unresolved(fn, str(error.name), place)) from error
    except Exception as error:  # boundary: annotations are expressions of the user's, and may raise anything
        raise RegistrationError(f"the annotations of {place} cannot be resolved: {error}") from error


def _unresolved(fn: Callable[..., Any], name: str, place: str) -> str:
    """Say which annotation mentions a name that does not exist at run time, and why it does not."""
    annotations = getattr(fn, "__annotations__", {})
    culprit = next((p for p, a in annotations.items() if re.search(rf"\b{re.escape(name)}\b", str(a))), "return")
    written = str(annotations.get(culprit, name)).strip("'\"")
    says = f"{place} returns" if culprit == "return" else f'argument "{culprit}" of {place} is annotated'
    says = f"{says} {name}, which" if written == name else f"{says} {written}, and {name}"
    code = getattr(fn, "__code__", None)
    file = "" if code is None else code.co_filename
    if name in _imported_for_checkers(file):
        return f"{says} is imported only under TYPE_CHECKING in {_shown_path(file)}. Import it at run time"
    return f"{says} does not exist where annotations are resolved. Define or import it at the module's top level"


def _imported_for_checkers(file: str) -> set[str]:
    """List the names that a source file imports under ``if TYPE_CHECKING:``."""
    try:
        tree = ast.parse("".join(linecache.getlines(file)))
    except SyntaxError:
        return set()
    blocks = [n for n in ast.walk(tree) if isinstance(n, ast.If) and ast.unparse(n.test).endswith("TYPE_CHECKING")]
    imports = [n for block in blocks for n in ast.walk(block) if isinstance(n, ast.Import | ast.ImportFrom)]
    return {(alias.asname or alias.name).partition(".")[0] for n in imports for alias in n.names}


def _result(hints: Mapping[str, Any], place: str) -> Any:
    annotation = hints.get("return", _EMPTY)
    if _mentions_type_variable(annotation):
        raise RegistrationError(
            f"{place} returns {show(annotation)}, whose type depends on its arguments, so nothing could decode a record"
            " of it. Annotate the types that it does return"
        )
    origin = typing.get_origin(annotation) or annotation
    if isinstance(origin, type) and issubclass(origin, typing.Awaitable | typing.Iterator | typing.AsyncIterable):
        way = "Make it an async def" if issubclass(origin, typing.Awaitable) else "Return a list"
        raise RegistrationError(f"{place} returns {show(annotation)}; a step returns one value. {way}")
    return annotation


def _mentions_type_variable(annotation: Any) -> bool:
    if isinstance(annotation, typing.TypeVar) or annotation is typing.Self:
        return True
    return any(_mentions_type_variable(a) for a in typing.get_args(annotation))


def _stored_annotation(parameter: inspect.Parameter, annotation: Any) -> Any:
    """Return the annotation of what is stored for a parameter: of the whole list for ``*args``, dict for ``**kwargs``."""
    unpacked = typing.get_origin(annotation) is typing.Unpack
    if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
        return typing.get_args(annotation)[0] if unpacked else list.__class_getitem__(annotation)
    if parameter.kind is inspect.Parameter.VAR_KEYWORD:
        return typing.get_args(annotation)[0] if unpacked else dict.__class_getitem__((str, annotation))
    return annotation

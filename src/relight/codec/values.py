"""Values in and out of the store: ``decode(encode(value))`` is what a workflow gets, the first time too.

Owns ``CodecRegistry`` (one per engine or client), ``ValueCodec`` (one per annotation) and ``Codec`` (the door for
users' types), and the errors that they raise. Promise: what ``encode`` accepts under an annotation, ``decode`` gives
back equal and of the annotated type, or ``round_trip`` raises. Known exceptions: a time zone comes back as its offset
(whole minutes) at that moment, and what is not of the annotated type may be made so (a tuple becomes the declared list).

Stored bytes are JSON, UTF-8, without spaces. Dicts keep their order, because people rely on it; sets are sorted.
``canonical_hash`` is blind to the order of keys, so that it can stand for "the same value".
"""

from __future__ import annotations

import functools
import hashlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar

import msgspec

from relight.codec.faults import Fault, as_fault, find_cycle, find_fault, find_nonfinite, sentence, show, type_name
from relight.codec.foreign import ENCODER, from_builtin
from relight.codec.nodes import Node
from relight.codec.plan import Compiler
from relight.codec.singles import Uncodable
from relight.errors import InvalidArgument, NotSerializable, PayloadError, PayloadTooLarge, RegistrationError

T = TypeVar("T")
E = TypeVar("E", bound=BaseException)

MAX_PAYLOAD_BYTES = 64 * 1024 * 1024
HASH_CHARACTERS = 16

_encode = ENCODER.encode
_parse = msgspec.json.Decoder().decode
_sorted_keys = functools.partial(msgspec.json.encode, order="deterministic")


class Codec(Generic[T]):
    """Store values of a type that Relight does not know, as bytes: ``Codec(pd.DataFrame, encode=…, decode=…)``.

    It applies wherever ``type`` is written in an annotation, also inside lists, dicts and dataclasses. ``name`` is
    stored beside the bytes and must stay; it defaults to the type's qualified name. ``encode`` must give equal bytes
    for equal values if such values are arguments of steps (or use ``@step(check_args=False)``).
    """

    def __init__(
        self, type: type[T], *, encode: Callable[[T], bytes], decode: Callable[[bytes], T], name: str | None = None
    ) -> None:
        self.type = type
        self.encode = encode
        self.decode = decode
        self.name = name or type_name(type)

    def __repr__(self) -> str:
        return f"Codec({self.name})"


class ValueCodec:
    """Writes and reads values of one annotation. Made by ``CodecRegistry.for_type``; safe to use from any thread."""

    __slots__ = ("_classes", "_codecs", "_decode", "_floats", "_max_bytes", "_pack", "_trim", "annotation")

    def __init__(self, annotation: Any, codecs: Mapping[Any, Codec[Any]], max_bytes: int) -> None:
        """Compile the annotation. Raises ``Uncodable``."""
        compiler = Compiler(codecs)
        node = compiler.compile(annotation)
        self.annotation = annotation
        self._codecs = codecs
        self._pack = node.pack
        self._decode = _decoder(node)
        self._classes = tuple(compiler.classes)
        self._floats = compiler.floats
        self._trim = node.trim
        self._max_bytes = max_bytes

    def encode(self, value: Any, *, what: str) -> bytes:
        """Write a value; ``what`` names it in errors, as ``result of totals#3`` does.

        Raises ``NotSerializable`` with the path to the part that cannot be stored, and ``PayloadTooLarge``.
        Cost: for scalars about 0.3 µs.
        """
        if self._classes:
            self._mind_subclasses()
        pack = self._pack
        try:
            packed = value if pack is None else pack(value)
        except Exception as error:  # boundary: users' codecs and properties run in here
            fault = (find_cycle(value) if isinstance(error, RecursionError) else None) or as_fault(error)
            raise _refusal(what, fault) from fault.origin
        try:
            data = _encode(packed)
        except Exception as error:  # boundary: pydantic serializers run in here
            fault = find_fault(packed) or as_fault(error)
            raise _refusal(what, fault) from fault.origin
        _check_size(what, len(data), self._max_bytes)
        if self._floats and b"null" in data and value is not None:
            bad_number = find_nonfinite(value)
            if bad_number is not None:
                raise _refusal(what, bad_number)
        return data

    def hash(self, data: bytes) -> str:
        """Return the ``canonical_hash`` of what ``encode`` wrote, without fields that equal their defaults, at any depth.

        So a class may gain a field with a default under live jobs.
        """
        if self._trim is None or (b"{" not in data and b"[" not in data):
            return canonical_hash(data)
        return canonical_hash(_sorted_keys(self._trim(_parse(data))))

    def decode(self, data: bytes, *, what: str = "the stored value") -> Any:
        """Read a value back. Raises ``PayloadError`` with the path when it does not fit the annotation."""
        try:
            return self._decode(data)
        except Exception as error:  # boundary: users' codecs, validators and __post_init__ run in here
            fault = as_fault(error)
            raise PayloadError(self._misfit(what, fault), what=what, path=fault.path) from error

    def round_trip(self, value: Any, *, what: str) -> tuple[bytes, Any]:
        """Write a value and read it back: the bytes to store, and what the workflow gets.

        Raises as ``encode`` does, and ``NotSerializable`` also when the value is not of the annotated type.
        """
        data = self.encode(value, what=what)
        try:
            return data, self._decode(data)
        except Exception as error:  # boundary: as in ``decode``
            fault = as_fault(error)
            raise NotSerializable(self._misfit(what, fault), what=what, path=fault.path) from error

    def _mind_subclasses(self) -> None:
        """Compile again, with a look at each instance's class, once a class in the annotation has subclasses."""
        for cls in self._classes:
            if cls.__subclasses__():
                self._pack = Compiler(self._codecs, exact=True).compile(self.annotation).pack
                self._classes = ()

    def _misfit(self, what: str, fault: Fault) -> str:
        place = f" at {fault.path}" if fault.path else ""
        return f"{what}{place} does not fit {show(self.annotation)}: {fault.reason}"


def _check_size(what: str, size: int, limit: int) -> None:
    if size > limit:
        told = f"{size / 2**20:,.1f} MiB, more than max_payload_bytes ({limit / 2**20:,.1f} MiB)"
        raise PayloadTooLarge(f"{what} has {told}. Write it to a file and pass its Path", what=what, size_bytes=size)


def _refusal(what: str, fault: Fault) -> NotSerializable:
    return NotSerializable(sentence(what, fault), what=what, path=fault.path)


def _decoder(node: Node) -> Callable[[bytes], Any]:
    if node.unpack is None:
        return msgspec.json.Decoder(node.type, dec_hook=from_builtin).decode
    unpack = node.unpack
    return lambda data: unpack(_parse(data))


class CodecRegistry:
    """Finds the codec of an annotation. ``codecs`` are the user's; ``max_payload_bytes`` limits each value alone.

    Raises ``RegistrationError`` when two codecs claim one type or one name.
    """

    def __init__(self, codecs: Sequence[Codec[Any]] = (), *, max_payload_bytes: int = MAX_PAYLOAD_BYTES) -> None:
        if max_payload_bytes < 1:
            raise InvalidArgument(f"max_payload_bytes is {max_payload_bytes}; it must be 1 or more")
        self._codecs = {codec.type: codec for codec in codecs}
        if len(self._codecs) < len(codecs) or len({codec.name for codec in codecs}) < len(codecs):
            names = ", ".join(sorted(codec.name for codec in codecs))
            raise RegistrationError(f"two codecs have one type or one name: {names}. Keep one of them")
        self.max_payload_bytes = max_payload_bytes
        self._known: dict[Any, ValueCodec] = {}

    def for_type(self, annotation: Any, *, what: str) -> ValueCodec:
        """Return the codec of an annotation; ``what`` names its place, as ``result of totals`` does.

        A missing annotation (``inspect.Parameter.empty``) and ``Any`` mean plain JSON values: None, bool, int, finite
        float, text, lists, and dicts with keys of text. Raises ``RegistrationError`` when values of the annotation
        cannot be stored.
        """
        if annotation is inspect.Parameter.empty:
            annotation = Any
        try:
            known = self._known.get(annotation)
        except TypeError:  # not hashable, as some Annotated[…] are
            return self._compiled(annotation, what)
        if known is None:
            known = self._known[annotation] = self._compiled(annotation, what)
        return known

    def encode_any(self, value: object, *, what: str) -> bytes:
        """Write a value that nothing is declared for, by what it is: to be read as whatever its reader declares.

        Raises ``NotSerializable`` and ``PayloadTooLarge``.
        """
        plain = self.for_type(Any, what=what)
        try:
            return plain.encode(value, what=what)
        except NotSerializable as refused:
            try:
                packed = self._packed(value, what, "")
            except RegistrationError:
                raise refused from None  # of a class that cannot be stored
            except RecursionError:
                raise _refusal(what, find_cycle(value) or Fault("nested too deeply")) from None
        data = _encode(packed)
        _check_size(what, len(data), self.max_payload_bytes)
        return data

    def _packed(self, value: object, what: str, path: str) -> Any:
        """Return a value with each part that is not plain JSON as its own codec writes it."""
        if isinstance(value, list | tuple):
            return [self._packed(item, what, f"{path}[{i}]") for i, item in enumerate(value)]
        if type(value) is dict and all(isinstance(key, str) for key in value):
            return {key: self._packed(item, what, f"{path}.{key}") for key, item in value.items()}
        place = f"{what} at {path}" if path else what
        return msgspec.Raw(self.for_type(type(value), what=place).encode(value, what=place))

    def _compiled(self, annotation: Any, what: str) -> ValueCodec:
        try:
            return ValueCodec(annotation, self._codecs, self.max_payload_bytes)
        except RecursionError:
            reason = "it contains itself in ever new forms (Box[T] that holds a Box[list[T]])"
            raise RegistrationError(f"{what} is annotated {show(annotation)}: {reason}", what=what) from None
        except (Uncodable, TypeError) as error:  # msgspec, too, may refuse what it is given
            raise RegistrationError(f"{what} is annotated {show(annotation)}: {error}", what=what) from error

    def encode_exception(self, error: BaseException, *, what: str) -> bytes:
        """Write an exception that a step declares in ``raises=``.

        A dataclass is written by its fields, another by its ``args`` and attributes, which must be plain JSON values.
        Cause, context and traceback are left out. Raises ``NotSerializable`` and ``PayloadTooLarge`` as ``ValueCodec.encode`` does.
        """
        return self._exception_codec(type(error), what).encode(_exception_state(error), what=what)

    def decode_exception(self, type_: type[E], data: bytes, *, what: str = "the stored error") -> E:
        """Read an exception back, of exactly ``type_``. Raises ``PayloadError`` when the record does not fit it."""
        state = self._exception_codec(type_, what).decode(data, what=what)
        if isinstance(state, type_):
            return state
        try:
            made = type_.__new__(type_, *state["args"])  # not its __init__, whose parameters need not be ``args``
            made.__dict__.update(state["attributes"])
        except Exception as error:  # boundary: a class's own __new__, or a record of another form
            reason = as_fault(error).reason
            raise PayloadError(f"{what} does not fit {type_name(type_)}: {reason}", what=what) from error
        return made

    def _exception_codec(self, type_: type[BaseException], what: str) -> ValueCodec:
        return self.for_type(type_ if hasattr(type_, "__dataclass_fields__") else _EXCEPTION, what=what)


_EXCEPTION = dict[str, Any]


def _exception_state(error: BaseException) -> Any:
    if hasattr(type(error), "__dataclass_fields__"):
        return error
    return {"args": list(error.args), "attributes": error.__dict__}


def canonical_hash(data: bytes) -> str:
    """Return the first 16 hexadecimal characters of the SHA-256 of an encoded value, with all keys sorted.

    Two dicts that are equal have one hash, in whatever order they were filled. Cost: 0.4 µs, and one parse and one
    write more for a value that has objects in it.
    """
    if b"{" in data and data[:1] != b'"':
        data = _sorted_keys(_parse(data))
    return hashlib.sha256(data).hexdigest()[:HASH_CHARACTERS]

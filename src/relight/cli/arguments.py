"""From ``--arg k=v`` and ``--json '{…}'`` to a call: each value JSON, else text, whichever the annotation takes.

``--arg limit=5`` is a number for an ``int`` and the text "5" for a ``str``; ``--arg folder=docs`` is no JSON, so text, which a
``Path`` takes. Where no workflow is at hand (a submit by kind) JSON wins where it can be read. Read next: ``run.py``.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping
from typing import Any

import msgspec

from relight.authoring.registry import Registry
from relight.authoring.workflows import Call, SubmitOptions
from relight.cli.loading import AnyWorkflow
from relight.cli.output import shortened, visible
from relight.cli.parsing import pairs, text_or_stdin
from relight.codec.values import ValueCodec
from relight.errors import InvalidArgument, PayloadError


def make_call(workflow: AnyWorkflow, args: tuple[str, ...], inputs: str | None, options: SubmitOptions) -> Call[Any]:
    """Return the call that was typed. Raises ``InvalidArgument`` naming the argument and what would do."""
    signature = Registry([workflow]).signature(workflow.spec.function)  # type: ignore[list-item]
    parameters = inspect.signature(workflow.spec.function).parameters
    given = {name: bytes(raw) for name, raw in _object(inputs, msgspec.Raw).items()}
    for name in (*given, *pairs(args, "--arg")):
        if name not in parameters:
            raise _unknown(workflow.kind, name, list(parameters))
    for name, text in pairs(args, "--arg").items():
        given[name] = _fitting(signature.codec_of(name), name, text)
    lacking = [
        p.name for p in parameters.values() if p.default is p.empty and p.kind not in _VARIADIC and p.name not in given
    ]
    if lacking:
        wanted = " ".join(f"--arg {name}=…" for name in lacking)
        raise InvalidArgument(f"{workflow.kind} needs {', '.join(lacking)}: {wanted}", workflow=workflow.kind)
    body = b",".join(msgspec.json.encode(name) + b":" + data for name, data in given.items())
    try:
        positional, named = signature.load(b"{" + body + b"}")
    except PayloadError as error:
        raise InvalidArgument(str(error), workflow=workflow.kind) from None
    call: Call[Any] = Call(workflow, positional, named, options)
    return call


_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def plain_arguments(args: tuple[str, ...], inputs: str | None) -> dict[str, Any]:
    """Return arguments by name, where nothing is known of the workflow but its kind."""
    return {**_object(inputs, Any), **{name: json_or_text(text) for name, text in pairs(args, "--arg").items()}}


def json_or_text(text: str) -> Any:
    """Return a value: JSON where it can be read as such, else the text itself."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return text


def _object(inputs: str | None, kind: Any) -> Mapping[str, Any]:
    if inputs is None:
        return {}
    text = text_or_stdin(inputs)
    try:
        found: Mapping[str, Any] = msgspec.json.decode(text, type=dict[str, kind])
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise InvalidArgument(
            f"--json {visible(shortened(text, 60))}: give one JSON object of the arguments ({error})"
        ) from None
    return found


def _fitting(codec: ValueCodec, name: str, text: str) -> bytes:
    """Return the JSON of a typed argument: of the first reading that its annotation takes."""
    try:
        as_text = msgspec.json.encode(text)
    except UnicodeError:
        raise InvalidArgument(f"--arg {name}: {text!r} is not text that can be stored") from None
    refused: PayloadError | None = None
    for data in (text.encode(), as_text):
        try:
            msgspec.json.decode(data)
            codec.decode(data, what=f"--arg {name}={visible(shortened(text, 60))}")
        except (msgspec.MsgspecError, RecursionError):
            continue
        except PayloadError as error:
            refused = refused or error
            continue
        return data
    assert refused is not None
    raise InvalidArgument(str(refused), argument=name)


def _unknown(kind: str, name: str, known: list[str]) -> InvalidArgument:
    close = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean {close[0]}?" if close else ""
    return InvalidArgument(
        f"{kind} has no parameter {name!r}. It has: {', '.join(known) or 'none'}.{hint}", workflow=kind
    )

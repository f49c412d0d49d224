"""From ``MODULE:NAME`` or ``path/to/file.py:NAME`` to the module, and to the workflows and queues in it.

The current folder is importable, as it is for ``python -m``. A file is imported under the name that its packages give
it, so that it is the same module however it is reached. What a user's module raises is told with its place, without a
traceback of ours. Read next: ``arguments.py``.
"""

from __future__ import annotations

import difflib
import importlib
import os
import pkgutil
import sys
import traceback
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from relight.authoring.options import Queue
from relight.authoring.registry import workflows_in
from relight.authoring.steps import BaseStep
from relight.authoring.workflows import BaseWorkflow
from relight.errors import RegistrationError, RelightError

AnyWorkflow = BaseWorkflow[..., Any]


@dataclass(frozen=True)
class Target:
    """What was named on the command line: a module (and, of a package, the modules in it), and perhaps a name in it."""

    text: str
    module: ModuleType
    modules: tuple[ModuleType, ...]
    name: str | None

    def value(self) -> Any:
        """Return what the name stands for; None without a name. Raises ``RegistrationError``."""
        if self.name is None:
            return None
        value: Any = self.module
        for part in self.name.split("."):
            value = getattr(value, part, _MISSING)
            if value is _MISSING:
                by_kind = [workflow for workflow in self.workflows() if workflow.kind == self.name]
                if by_kind:
                    return by_kind[0]
                raise self._no_such(self.name)
        return value

    def workflow(self) -> AnyWorkflow:
        """Return the one workflow that is meant. Raises ``RegistrationError``."""
        if self.name is not None:
            value = self.value()
            if isinstance(value, BaseWorkflow):
                return value
            kind = "a step; only workflows are run" if isinstance(value, BaseStep) else "no workflow"
            raise RegistrationError(f"{self.text} is {kind}. {self._known()}")
        own = workflows_in(self.module)
        if len(own) == 1:
            return own[0]
        raise RegistrationError(f"{self.text} names no workflow: write {self.text}:WORKFLOW. {self._known()}")

    def workflows(self) -> list[AnyWorkflow]:
        """Return every workflow that the modules define or import, each once."""
        found = {id(workflow): workflow for module in self.modules for workflow in workflows_in(module)}
        return list(found.values())

    def queues(self) -> list[Queue]:
        """Return every queue that the modules define or import, each definition once."""
        values = (value for module in self.modules for value in vars(module).values())
        return list(dict.fromkeys(value for value in values if isinstance(value, Queue)))

    def steps(self) -> list[BaseStep[..., Any]]:
        """Return every step that the modules define or import, each once."""
        values = (value for module in self.modules for value in vars(module).values())
        return list({id(value): value for value in values if isinstance(value, BaseStep)}.values())

    def _names(self) -> list[str]:
        values = vars(self.module).items()
        return sorted(name for name, value in values if isinstance(value, BaseWorkflow))

    def _known(self) -> str:
        names = self._names()
        return (
            f"Workflows in it: {', '.join(names)}"
            if names
            else "There is no workflow in it; decorate one with @workflow"
        )

    def _no_such(self, name: str) -> RegistrationError:
        close = difflib.get_close_matches(name, self._names(), n=1)
        hint = f" Did you mean {close[0]}?" if close else ""
        return RegistrationError(f"there is no {name} in {self.text.rpartition(':')[0]}. {self._known()}.{hint}")


_MISSING = object()


def load(text: str) -> Target:
    """Import what a target names. Raises ``RegistrationError``."""
    where, name = _split(text)
    module_name = _module_of_file(Path(where)) if _is_file(where) else where
    if not all(part.isidentifier() for part in module_name.split(".")):
        raise RegistrationError(f"{text!r} names no module: write MODULE:NAME, or path/to/file.py:NAME")
    if not _is_file(where):
        _make_importable(Path.cwd())
    module = _import(module_name, text)
    return Target(text, module, (module, *_inside(module, text)), name)


def is_target(text: str) -> bool:
    """Tell whether a text names a module, and not only a kind."""
    where, name = _split(text)
    return name is not None or _is_file(where)


def _split(text: str) -> tuple[str, str | None]:
    where, colon, name = text.rpartition(":")
    if not colon:
        return text, None
    if not where or not all(part.isidentifier() for part in name.split(".")):
        raise RegistrationError(f"{text!r}: write MODULE:NAME, or path/to/file.py:NAME")
    return where, name


def _is_file(where: str) -> bool:
    return where.endswith(".py") or os.sep in where


def _module_of_file(file: Path) -> str:
    """Return the module's name, its folder (or that of its outermost package) being importable."""
    if not file.is_file():
        raise RegistrationError(f"there is no file {file}")
    file = file.resolve()
    parts = [] if file.stem == "__init__" else [file.stem]
    folder = file.parent
    while (folder / "__init__.py").is_file():
        parts.insert(0, folder.name)
        folder = folder.parent
    _make_importable(folder)
    name = ".".join(parts)
    known = sys.modules.get(name)
    if known is not None and os.path.realpath(getattr(known, "__file__", None) or "") != str(file):
        raise RegistrationError(
            f"{file} would be module {name}, which is another one ({known.__name__}). Rename the file"
        )
    return name


def _make_importable(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def _import(name: str, text: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise RegistrationError(
                f"there is no module {error.name} here (looked in {Path.cwd()} and the installed packages). "
                "Go to its folder, or give the file: path/to/file.py:NAME"
            ) from None
        raise _failed(name, error) from error
    except RelightError:
        raise
    except (Exception, SystemExit) as error:  # boundary: a user's module may raise anything while it is imported
        raise _failed(name, error) from error


def _failed(name: str, error: BaseException) -> RegistrationError:
    """Say where in the user's code an import failed."""
    frames = [
        f for f in traceback.extract_tb(error.__traceback__) if "importlib" not in f.filename and f.filename != __file__
    ]
    place = f" ({os.path.relpath(frames[-1].filename)}:{frames[-1].lineno})" if frames else ""
    if isinstance(error, SyntaxError) and error.filename:
        place = f" ({os.path.relpath(error.filename)}:{error.lineno})"
    words = error.msg if isinstance(error, SyntaxError) else str(error)
    return RegistrationError(f"importing {name} failed: {type(error).__name__}: {words}{place}. Mend that first")


def _inside(module: ModuleType, text: str) -> Iterable[ModuleType]:
    """Import the modules of a package; ``__main__`` is a program, not a part."""
    path = getattr(module, "__path__", None)
    if path is None:
        return
    for found in pkgutil.iter_modules(path, f"{module.__name__}."):
        if not found.name.endswith(".__main__"):
            inner = _import(found.name, text)
            yield inner
            yield from _inside(inner, text)

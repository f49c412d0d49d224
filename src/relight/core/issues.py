"""What went wrong in a job without failing it: noted once for each place, told when the job completes."""

from __future__ import annotations

import msgspec

from relight.core.payloads import Issue


class Issues:
    """The issues of one run. A replay notes the same ones at the same places, so nothing of them is stored before the end."""

    def __init__(self) -> None:
        self._noted: dict[str, Issue] = {}

    def note(self, place: str, code: str, detail: str | None = None) -> None:
        """Note an issue; what is noted again at its place is the same issue."""
        self._noted.setdefault(place, Issue(code=code, detail=detail))

    def text(self) -> str | None:
        """Return all issues as they are stored, or None when there is none."""
        return msgspec.json.encode(list(self._noted.values())).decode() if self._noted else None

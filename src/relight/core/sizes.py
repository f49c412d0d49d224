"""How large a stored payload is, for the record: bytes of the payload itself, wherever it is kept."""

from __future__ import annotations


def size_of(text: str) -> int:
    """Return how many bytes a text has as UTF-8."""
    return len(text) if text.isascii() else len(text.encode())

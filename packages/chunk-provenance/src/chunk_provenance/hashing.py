"""Hashes that identify files, texts and folders."""

import hashlib
from pathlib import Path


def hash_file(path: Path) -> str:
    """The sha256 of a file, as hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_text(text: str) -> str:
    """The sha256 of a text's UTF-8 bytes, as hex digits.

    >>> hash_text("abc")[:12]
    'ba7816bf8f01'
    """
    return hashlib.sha256(text.encode("utf-8")).hexdigest()

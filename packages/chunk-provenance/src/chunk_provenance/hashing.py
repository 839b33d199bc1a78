"""Hashes that identify files, texts and folders."""

import hashlib
from pathlib import Path
from typing import BinaryIO


def hash_file(path: Path) -> str:
    """The sha256 of a file, as hex digits."""
    with path.open("rb") as file:
        return hash_stream(file)


def hash_stream(file: BinaryIO) -> str:
    """The sha256 of what is left of an open file, as hex digits."""
    return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]  # any readable file


def hash_text(text: str) -> str:
    """The sha256 of a text's UTF-8 bytes, as hex digits.

    >>> hash_text("abc")[:12]
    'ba7816bf8f01'
    """
    return hashlib.sha256(text.encode("utf-8")).hexdigest()

"""The journal of a merge: which chunks are safely on the disk, so that a killed merge continues.

A line of JSON with the merge's identity, then the number of each finished chunk as four bytes. A number is
appended only after the chunk's bytes were synced; a torn end is ignored.
"""

import fcntl
import json
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

NAME = "journal"


class Journal:
    """The journal in an unfinished output folder. Holds the folder for this process while open."""

    def __init__(self, folder: Path, identity: str) -> None:
        """Open or start the journal.

        Raises:
            ValueError: another process writes this merge.
        """
        self._descriptor = os.open(folder / NAME, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._descriptor)
            raise ValueError(
                f"{str(folder)!r} is being written by another process: wait or end it"
            ) from error
        self.finished = self._read(identity)

    def _read(self, identity: str) -> set[int]:
        """The finished chunks; the file ends after the last whole number, or is begun anew."""
        first = json.dumps({"format": "merge-journal", "version": 1, "identity": identity}).encode() + b"\n"
        content = os.pread(self._descriptor, os.fstat(self._descriptor).st_size, 0)
        whole = (
            content[: len(content) - (len(content) - len(first)) % 4] if content.startswith(first) else first
        )
        os.ftruncate(self._descriptor, 0 if whole == first else len(whole))
        os.pwrite(self._descriptor, first, 0)
        os.lseek(self._descriptor, 0, os.SEEK_END)
        return set(np.frombuffer(whole[len(first) :], dtype="<u4").tolist())

    def append(self, chunks: Iterable[int]) -> None:
        """Record chunks whose bytes are on the disk, and wait until the record is there too."""
        os.write(self._descriptor, np.array(sorted(chunks), dtype="<u4").tobytes())
        os.fsync(self._descriptor)

    def close(self) -> None:
        """Let go of the folder."""
        os.close(self._descriptor)

"""Building a chunk store piece by piece: shared out to processes or machines, and taken up again if killed.

`STORE.parts` holds what has been encoded so far. Any process may encode any piece; what comes out depends on
nothing but the piece, so the store is the same for every split. Joining the parts is a tenth of the work.
"""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from typing import Any

from chunk_provenance.build import differences
from chunk_provenance.documents import NUMBERED
from chunk_provenance.encoding import EncodedBatch, encode_piece, is_encoded, read_note, read_part
from chunk_provenance.formats import FormatError, write_json
from chunk_provenance.hashing import hash_text
from chunk_provenance.places import exists, local_copy, publish, remove_folder, scratch_folder
from chunk_provenance.sources import Piece, find_pieces, find_sources
from chunk_provenance.tokenizing import TextEncoder


@dataclass(frozen=True)
class Job:
    """What is to be encoded, how, and where the parts go."""

    documents: str
    columns: tuple[tuple[str, str], ...]
    tokenizer: str
    """Content of the tokenizer's file."""
    eos_token: str | None
    parts: str
    """Folder of the part files, a path or URL."""

    def part(self, number: int) -> str:
        """A piece's part file, without its ending."""
        return f"{self.parts}/{number:05}"


def begin(job: Job, pieces: Sequence[Piece], *, overwrite: bool) -> None:
    """Make the folder of the parts, or check that the one that is there belongs to this job.

    Raises:
        FormatError: it holds parts of other documents or of another tokenizer.
    """
    plan = {
        "format": "encoded-parts",
        "version": 1,
        "documents": {piece.source.name: piece.source.version() for piece in pieces},
        "num_pieces": len(pieces),
        "columns": dict(job.columns),
        "tokenizer_sha256": hash_text(job.tokenizer),
        "eos_token": job.eos_token,
    }
    where = f"{job.parts}/plan.json"
    if overwrite and exists(where) and _differences(where, plan):
        remove_folder(job.parts)
    if not exists(where):
        with scratch_folder(where) as folder:
            write_json(plan, folder / "plan")
            publish(folder / "plan", where)
    elif ends := _differences(where, plan):
        raise FormatError(
            f"{job.parts!r} holds encoded documents of other inputs ({'; '.join(ends)}): remove that folder "
            "or give --overwrite"
        )


def pieces_of(job: Job) -> list[Piece]:
    """The pieces of the job's documents, in order."""
    numbered = dict(job.columns).get("id") == NUMBERED
    return find_pieces(find_sources(job.documents), numbered=numbered)


def share_of(num_pieces: int, *, rank: int, ranks: int) -> range:
    """The pieces of one rank.

    >>> list(share_of(7, rank=1, ranks=3))
    [1, 4]
    """
    if not 0 <= rank < ranks:
        raise ValueError(f"--rank {rank} is none of the ranks 0 to {ranks - 1} that --ranks {ranks} asks for")
    return range(rank, num_pieces, ranks)


def encode_missing(
    job: Job,
    pieces: Sequence[Piece],
    numbers: Sequence[int],
    *,
    processes: int,
    done: Callable[[int, int], None],
) -> None:
    """Encode those of the numbered pieces that have no part file yet.

    Args:
        job: what and how.
        pieces: all pieces of the job.
        numbers: which of them are wanted.
        processes: how many at a time.
        done: told (number of the piece, characters) of every piece when it is there; 0 characters for one
            that was there already.
    """
    missing = [number for number in numbers if not is_encoded(job.part(number))]
    for number in sorted(set(numbers) - set(missing)):
        done(number, 0)
    if processes == 1 or len(missing) == 1:
        encoder = TextEncoder(job.tokenizer, eos_token=job.eos_token)
        for number in missing:
            done(number, _encode(job, pieces, number, encoder))
        return
    threads = max(1, (os.cpu_count() or 1) // processes)
    with ProcessPoolExecutor(
        processes, mp_context=get_context("spawn"), initializer=_use_threads, initargs=(threads,)
    ) as pool:
        waiting = {pool.submit(_encode_in_process, job, number): number for number in missing}
        for future in as_completed(waiting):
            done(waiting[future], future.result())


def missing_pieces(job: Job, num_pieces: int) -> list[int]:
    """The pieces that have no part file."""
    return [number for number in range(num_pieces) if not is_encoded(job.part(number))]


def read_parts(job: Job, pieces: Sequence[Piece]) -> Iterator[EncodedBatch]:
    """All batches, in the order of the pieces."""
    lines_before, source = 0, None
    for number, piece in enumerate(pieces):
        if piece.source is not source:
            lines_before, source = 0, piece.source
        yield from read_part(piece, job.part(number), lines_before=lines_before)
        if piece.by_bytes:
            lines_before += read_note(job.part(number))["lines"]


def read_fingerprints(job: Job, pieces: Sequence[Piece]) -> dict[str, Any]:
    """Source -> what tells its content from another, as whoever encoded its first piece found it."""
    return {
        piece.source.name: read_note(job.part(number))["fingerprint"]
        for number, piece in enumerate(pieces)
        if _begins_source(pieces, number)
    }


def first_pieces(pieces: Sequence[Piece]) -> list[Piece]:
    """The first piece of every source."""
    return [piece for number, piece in enumerate(pieces) if _begins_source(pieces, number)]


def _encode(job: Job, pieces: Sequence[Piece], number: int, encoder: TextEncoder) -> int:
    return encode_piece(
        pieces[number],
        encoder,
        dict(job.columns),
        job.part(number),
        first_of_source=_begins_source(pieces, number),
    )


def _begins_source(pieces: Sequence[Piece], number: int) -> bool:
    return number == 0 or pieces[number].source is not pieces[number - 1].source


def _encode_in_process(job: Job, number: int) -> int:
    pieces, encoder = _prepare(job)
    return _encode(job, pieces, number, encoder)


@cache
def _prepare(job: Job) -> tuple[list[Piece], TextEncoder]:
    """Once for every process."""
    return pieces_of(job), TextEncoder(job.tokenizer, eos_token=job.eos_token)


def _use_threads(threads: int) -> None:
    """How many threads `tokenizers` shall use in this process; it has not been imported yet."""
    os.environ["RAYON_NUM_THREADS"] = str(threads)


def _differences(where: str, plan: dict[str, Any]) -> list[str]:
    with local_copy(where) as file:
        found = json.loads(file.read_text(encoding="utf-8"))
    return differences(found, json.loads(json.dumps(plan)))

"""A step for datatrove: its executors run the ranks of a build, on this machine, under Slurm or on Ray.

Needs the extra `datatrove`. The step reads the documents itself, so that the chunk store is the same for any
number of tasks; `chunk-provenance build` with the same arguments then makes the store of what they encoded.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from datatrove.pipeline.base import PipelineStep

from chunk_provenance.piecework import Job, begin, encode_missing, pieces_of, share_of
from chunk_provenance.places import local_copy
from chunk_provenance.tokenizing import load_encoder


class EncodeDocuments(PipelineStep):  # type: ignore[misc]  # datatrove has no types
    """Encode one rank's share of the documents of a chunk store.

    Args:
        documents: path or URL, as `chunk-provenance build` takes it.
        store: the chunk store that is going to be made; the parts go to `store`.parts.
        tokenizer: a tokenizer.json, path or URL.
        eos_token: the tokenizer's end token, where it is not one of the usual.
        columns: fields (id, text, title, source, url) that have other names in the files.
    """

    name = "encode documents"
    type = "chunk-provenance"

    def __init__(
        self,
        documents: str,
        store: str,
        tokenizer: str,
        eos_token: str | None = None,
        columns: Mapping[str, str] | None = None,
    ) -> None:
        """Remember what to encode; the work begins in `run`."""
        super().__init__()
        with local_copy(tokenizer) as path:
            content = load_encoder(Path(path), eos_token=eos_token).content
        fields = tuple(sorted((columns or {}).items()))
        self.job = Job(documents, fields, content, eos_token, f"{store.rstrip('/')}.parts")

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Any]:
        """Encode this rank's pieces; documents of earlier steps pass by."""
        pieces = pieces_of(self.job)
        begin(self.job, pieces, overwrite=False)
        with self.track_time():
            wanted = share_of(len(pieces), rank=rank, ranks=world_size)
            encode_missing(self.job, pieces, wanted, processes=1, done=self._count)
        if data:
            yield from data

    def _count(self, _: int, characters: int) -> None:
        self.stat_update("pieces")
        self.stat_update("characters", value=characters)

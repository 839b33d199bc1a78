"""What a build on a server will take: disk there, memory here, time. From measured figures, so "about".

The measured corpora: LMEnt's published snapshot of 127 GB for 400 M mentions in 3.6 G tokens, and the one of
`benchmarks/elasticsearch_build.py`, whose rate on two cores, shared by server and client, gives the time.
"""

from dataclasses import dataclass

from elasticsearch import Elasticsearch

from entity_index.elastic.bulk_state import Plan
from entity_index.source import ChunkSource

BYTES_A_MENTION, BYTES_A_TEXT_BYTE = 110, 1.5  # in each of the two indices
MENTIONS_A_SECOND = 30_000
MEMORY = 500_000_000
SAMPLE_CHUNKS = 2000


@dataclass(frozen=True)
class Estimate:
    """What is needed and what is there."""

    mentions: int
    disk: int
    free: int | None
    """None where the server does not say."""
    seconds: float

    @property
    def fits(self) -> bool:
        """Whether there is disk enough, as far as one can tell."""
        return self.free is None or self.disk <= self.free


def estimate(plan: Plan, free: int | None) -> Estimate:
    """What a build from the beginning will take, where so many bytes are free."""
    mentions, text_bytes = size_of(plan.source)
    one = BYTES_A_MENTION * mentions + BYTES_A_TEXT_BYTE * text_bytes
    return Estimate(mentions, int(2 * one * (1 + plan.replicas)), free, mentions / MENTIONS_A_SECOND)


def size_of(source: ChunkSource) -> tuple[int, int]:
    """About how many mentions and bytes of text a source has: as it says, or as many as its first chunks."""
    if source.num_mentions is not None and source.text_bytes is not None:
        return source.num_mentions, source.text_bytes
    chunks = mentions = text_bytes = 0
    for batch in source.stream():
        chunks += len(batch.texts)
        mentions += batch.mentions.num_rows
        text_bytes += sum(len(text.encode()) for text in batch.texts)
        if chunks >= SAMPLE_CHUNKS:
            break
    more = source.num_chunks / max(chunks, 1)
    return round(mentions * more), round(text_bytes * more)


def free_bytes(client: Elasticsearch) -> int | None:
    """What is free on the data paths of all nodes that hold data; None where the server does not say."""
    answer = client.nodes.stats(metric="fs", filter_path="nodes.*.roles,nodes.*.fs.total.available_in_bytes")
    holders = [
        node for node in answer["nodes"].values() if any(role.startswith("data") for role in node["roles"])
    ]
    free = [node.get("fs", {}).get("total", {}).get("available_in_bytes") for node in holders]
    return sum(free) if free and None not in free else None


def check_disk(found: Estimate) -> None:
    """Refuse to begin what cannot be finished."""
    if found.free is not None and not found.fits:
        raise ValueError(
            f"the server has {in_gigabytes(found.free)} of disk free, both indices will take about "
            f"{in_gigabytes(found.disk)}: make room first"
        )


def describe(found: Estimate, plan: Plan) -> list[str]:
    """The estimate in lines."""
    hours = found.seconds / 3600
    time = f"{hours:.1f} h" if hours >= 1 else f"{max(1, round(found.seconds / 60))} min"
    free = "" if found.free is None else f" ({in_gigabytes(found.free)} are free)"
    return [
        f"{plan.source.num_chunks:,} chunks, about {found.mentions:,} mentions",
        f"disk on the server: about {in_gigabytes(found.disk)}{free}",
        f"memory: {in_gigabytes(MEMORY)} here; the server has its own",
        f"time: about {time} on two cores, server and client together",
    ]


def in_gigabytes(size: int) -> str:
    """A number of bytes for a reader.

    >>> in_gigabytes(127_300_000_000), in_gigabytes(52_000)
    ('127 GB', '0.1 GB')
    """
    gigabytes = size / 1e9
    return f"{gigabytes:.0f} GB" if gigabytes >= 10 else f"{max(gigabytes, 0.1):.1f} GB"

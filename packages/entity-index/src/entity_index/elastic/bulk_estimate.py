"""What a build on a server will take: disk there, memory here, time. From measured figures, so "about".

The measured corpora: LMEnt's published snapshot of 127 GB for 400 M mentions in 3.6 G tokens, and the one of
`benchmarks/elasticsearch_build.py`, whose rate on two cores, shared by server and client, gives the time.
"""

from dataclasses import dataclass

from elasticsearch import Elasticsearch

from entity_index.elastic.bulk_state import Plan

BYTES_A_MENTION, BYTES_A_TEXT_BYTE = 110, 1.5  # in each of the two indices
MENTIONS_A_SECOND = 40_000
MEMORY = 500_000_000


@dataclass(frozen=True)
class Estimate:
    """What is needed and what is there; None where nobody can tell."""

    disk: int | None
    free: int | None
    seconds: float | None

    @property
    def fits(self) -> bool:
        """Whether there is disk enough, as far as one can tell."""
        return self.disk is None or self.free is None or self.disk <= self.free


def estimate(plan: Plan, free: int | None) -> Estimate:
    """What a build from the beginning will take, where so many bytes are free."""
    mentions, text_bytes = plan.source.num_mentions, plan.source.text_bytes
    if mentions is None or text_bytes is None:
        return Estimate(None, None, None)
    one = BYTES_A_MENTION * mentions + BYTES_A_TEXT_BYTE * text_bytes
    disk = int(2 * one * (1 + plan.replicas))
    return Estimate(disk, free, mentions / MENTIONS_A_SECOND)


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
    if not found.fits:
        raise ValueError(
            f"the server has {in_gigabytes(found.free)} of disk free, both indices will take about "
            f"{in_gigabytes(found.disk)}: make room first"
        )


def describe(found: Estimate, plan: Plan) -> list[str]:
    """The estimate in lines."""
    source = plan.source
    if found.disk is None or found.seconds is None:
        return [f"{source.num_chunks:,} chunks; what they take cannot be told without reading all of them"]
    hours = found.seconds / 3600
    time = f"{hours:.1f} h" if hours >= 1 else f"{max(1, round(found.seconds / 60))} min"
    free = "" if found.free is None else f" ({in_gigabytes(found.free)} are free)"
    return [
        f"{source.num_chunks:,} chunks, about {source.num_mentions:,} mentions",
        f"disk on the server: about {in_gigabytes(found.disk)}{free}",
        f"memory: {in_gigabytes(MEMORY)} here; the server has its own",
        f"time: about {time} on two cores, server and client together",
    ]


def in_gigabytes(size: int | None) -> str:
    """A number of bytes for a reader.

    >>> in_gigabytes(127_300_000_000), in_gigabytes(52_000)
    ('127 GB', '0.1 GB')
    """
    gigabytes = (size or 0) / 1e9
    return f"{gigabytes:.0f} GB" if gigabytes >= 10 else f"{max(gigabytes, 0.1):.1f} GB"

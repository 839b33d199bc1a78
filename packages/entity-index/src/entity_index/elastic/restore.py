"""Restore a published snapshot: both indices of a pair, from a folder that the server can read.

The server copies the files by itself; this registers the folder (read-only, for as long as it takes), starts
the restores, watches them, and takes away what came only in part.
"""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePath
from uuid import uuid4

from elasticsearch import ApiError, Elasticsearch

from entity_index.elastic.connection import Security, connect, read_version
from entity_index.elastic.index_requests import one_sentence, reason_of
from entity_index.elastic.mapping import CASED
from entity_index.elastic.mapping_check import check_index, check_name
from entity_index.elastic.queries import Json

Progress = Callable[[str, int, int], None]
"""Told what is restored, how many of its bytes are there, and how many there will be."""

SECONDS_BETWEEN_LOOKS = 0.25


@dataclass(frozen=True)
class Restored:
    """What a restore brought."""

    snapshot: str
    indices: tuple[str, ...]
    num_chunks: int


def restore_snapshot(
    address: str,
    folder: str,
    *,
    snapshot: str | None = None,
    name: str | None = None,
    security: Security | None = None,
    progress: Progress = lambda what, done, total: None,
) -> Restored:
    """Restore an index and its case-sensitive twin from a repository in a folder of the server's machine.

    Args:
        address: the server, such as `http://localhost:9200`.
        folder: the repository's folder, as the server sees it; `path.repo` must allow it.
        snapshot: which one; may be left out where there is only one.
        name: what the index shall be called (its twin: and `_case_sensitive`); by default as in the snapshot.
        security: by default, what the environment says.
        progress: called now and then.

    Raises:
        ValueError: there is no such snapshot, the server cannot read it, or what is in it is no entity index.
    """
    if name is not None:
        check_name(name)
    client = connect(address, security)
    with _repository(client, folder) as repository:
        found = _choose(_snapshots(client, repository, folder), snapshot, folder)
        targets = _targets(found, name)
        _check_free(client, list(targets.values()))
        _check_space(client, repository, found["snapshot"], list(targets))
        try:
            for source, target in targets.items():
                _restore(client, repository, found["snapshot"], source, target, progress)
                check_index(client, target, case_sensitive=target.endswith(CASED))
        except BaseException:  # also when the user stops it: nothing half there keeps the name
            _remove(client, list(targets.values()))
            raise
    restored = tuple(targets.values())
    with one_sentence():
        return Restored(found["snapshot"], restored, int(client.count(index=restored[0])["count"]))


@contextmanager
def _repository(client: Elasticsearch, folder: str) -> Iterator[str]:
    """The folder as a repository, registered while the block runs."""
    repository = f"entity-index-{uuid4().hex}"
    settings = {"location": folder, "readonly": True}
    try:
        client.snapshot.create_repository(name=repository, repository={"type": "fs", "settings": settings})
    except ApiError as error:
        reason = reason_of(error)
        if "path.repo" not in reason:
            raise ValueError(f"the server cannot use {folder!r} as a repository: {reason}") from error
        parent = str(PurePath(folder).parent) if PurePath(folder).is_absolute() else "/path/of/snapshots"
        raise ValueError(
            f'the server may not read {folder!r}: add the line  path.repo: ["{parent}"]  to its '
            "elasticsearch.yml and start it again"
        ) from error
    try:
        yield repository
    finally:
        with one_sentence():
            client.snapshot.delete_repository(name=repository)


def _snapshots(client: Elasticsearch, repository: str, folder: str) -> list[Json]:
    with one_sentence():
        found: list[Json] = client.snapshot.get(repository=repository, snapshot="_all").body["snapshots"]
    if not found:
        raise ValueError(f"there is no snapshot in {folder!r}, as the server sees it: is it the repository?")
    return found


def _choose(found: list[Json], snapshot: str | None, folder: str) -> Json:
    names = ", ".join(sorted(one["snapshot"] for one in found))
    if snapshot is None and len(found) > 1:
        raise ValueError(f"{folder!r} has several snapshots ({names}): say which with --snapshot")
    wanted = [one for one in found if snapshot in (None, one["snapshot"])]
    if not wanted:
        raise ValueError(f"there is no snapshot {snapshot!r} in {folder!r}: it has {names}")
    if wanted[0]["state"] != "SUCCESS":
        raise ValueError(
            f"snapshot {wanted[0]['snapshot']!r} is not whole: its state is {wanted[0]['state']}"
        )
    return wanted[0]


def _targets(found: Json, name: str | None) -> dict[str, str]:
    """Index in the snapshot -> what it shall be called: the pair that is in it.

    Those that `entity-index build` made have NAME and NAME_case_sensitive as aliases, and a hash at the end.
    """
    indices = {re.sub(r"-[0-9a-f]{12}$", "", index): index for index in sorted(found["indices"])}
    bases = sorted(index for index in indices if index + CASED in indices)
    if len(bases) != 1:
        what = f"{len(bases)} pairs" if bases else "no pair"
        raise ValueError(
            f"snapshot {found['snapshot']!r} has {what} of indices NAME and NAME{CASED}, expected one: "
            + ", ".join(sorted(found["indices"]))
        )
    (base,) = bases
    check_name(base)
    return {indices[base]: name or base, indices[base + CASED]: (name or base) + CASED}


def _check_free(client: Elasticsearch, targets: list[str]) -> None:
    with one_sentence():
        there = sorted(client.indices.get(index=",".join(targets), ignore_unavailable=True).body)
    if there:
        raise ValueError(
            f"the server has {' and '.join(there)} already: choose another name with --as, or delete them"
        )


def _check_space(client: Elasticsearch, repository: str, snapshot: str, indices: list[str]) -> None:
    with one_sentence():
        status = client.snapshot.status(repository=repository, snapshot=snapshot).body["snapshots"][0]
        nodes = client.nodes.stats(metric="fs").body["nodes"].values()
    needed = sum(status["indices"][index]["stats"]["total"]["size_in_bytes"] for index in indices)
    free = sum(node["fs"]["total"]["available_in_bytes"] for node in nodes)
    if needed > free:
        raise ValueError(f"the snapshot takes {needed / 1e9:.1f} GB, the server has {free / 1e9:.1f} GB free")


def _restore(
    client: Elasticsearch, repository: str, snapshot: str, source: str, target: str, progress: Progress
) -> None:
    """Have one index restored under a name, and wait until it can be searched."""
    replacement = target.replace("\\", "\\\\").replace("$", "\\$")
    try:
        client.snapshot.restore(
            repository=repository,
            snapshot=snapshot,
            indices=source,
            include_global_state=False,
            include_aliases=False,
            rename_pattern="^.+$",
            rename_replacement=replacement,
            wait_for_completion=False,
        )
    except ApiError as error:
        reason = reason_of(error)
        if "created with version" in reason or "newer" in reason or "higher" in reason:
            raise ValueError(
                f"snapshot {snapshot!r} was made by a newer Elasticsearch than this server, "
                f"{read_version(client)}: restore it on a server of its version or a later one"
            ) from error
        raise ValueError(f"snapshot {snapshot!r} cannot be restored: {reason}") from error
    while not _is_restored(client, target, progress):
        time.sleep(SECONDS_BETWEEN_LOOKS)


def _is_restored(client: Elasticsearch, target: str, progress: Progress) -> bool:
    """Look once how far a restore is.

    Raises:
        ValueError: the server has given it up.
    """
    with one_sentence():
        recovery = client.indices.recovery(index=target).body.get(target, {"shards": []})["shards"]
        health = client.cluster.health(index=target, level="indices").body["indices"][target]
    failures = _failures(client, target)
    sizes = [shard["index"]["size"] for shard in recovery if shard["primary"]]
    total = sum(size["total_in_bytes"] for size in sizes)
    if total:
        progress(f"restoring {target}", sum(size["recovered_in_bytes"] for size in sizes), total)
    if failures:
        raise ValueError(f"the server could not restore {target!r}: {failures[0]}")
    return bool(health["active_primary_shards"] == health["number_of_shards"])


def _failures(client: Elasticsearch, target: str) -> list[str]:
    """Why shards of an index are given up; empty while they are on their way."""
    reasons = []
    with one_sentence():
        table = client.cluster.state(index=target, metric="routing_table").body["routing_table"]["indices"]
    for shards in table.get(target, {"shards": {}})["shards"].values():
        for shard in shards:
            unassigned = shard.get("unassigned_info", {})
            if shard["primary"] and shard["state"] == "UNASSIGNED" and unassigned.get("failed_attempts"):
                reasons.append(" ".join(str(unassigned.get("details", "no reason is given")).split()))
    return reasons


def _remove(client: Elasticsearch, targets: list[str]) -> None:
    with one_sentence():
        client.indices.delete(index=",".join(targets), ignore_unavailable=True)

"""The indices of a name before and after they are built. Nothing half-built is ever found under the name.

They grow, hidden, under names of their own (NAME-HASH, from the source's hash), and get the name as an alias,
both at once, when every chunk is in both.
"""

from dataclasses import dataclass
from functools import partial

from elasticsearch import Elasticsearch

from entity_index.elastic.bulk_send import Server, alias_while_building
from entity_index.elastic.connection import check_index_name
from entity_index.elastic.mapping import CASED, FORMAT, VERSION, Json, mapping_of, settings_of
from entity_index.source import ChunkSource

WHILE_BUILDING: Json = {"refresh_interval": "-1", "translog": {"durability": "async"}}
AFTERWARDS: Json = {"refresh_interval": None, "translog": {"durability": None}}


@dataclass(frozen=True)
class Plan:
    """What to build, and where."""

    source: ChunkSource
    name: str
    replicas: int = 0
    keep_replicas: bool = False
    """Have the replicas from the beginning: slower, but a node may be lost for good."""
    overwrite: bool = False
    allow_rejected: bool = False
    """Publish the indices even if they lack chunks that the server refuses."""

    def __post_init__(self) -> None:
        """Refuse names and numbers that are none."""
        check_index_name(self.name)
        check_index_name(f"{self.name}{CASED}-{self.source.sha256[:12]}-again")
        if self.replicas < 0:
            raise ValueError(f"--replicas {self.replicas} is less than none")

    @property
    def pair(self) -> dict[str, bool]:
        """The two published names, and whether each tells upper from lower case."""
        return {self.name: False, self.name + CASED: True}

    @property
    def replicas_while_building(self) -> int:
        """A copy is made faster at once than document by document."""
        return self.replicas if self.keep_replicas else 0


def look_up(server: Server, plan: Plan) -> dict[str, Json]:
    """The indices that the names stand for now: name of the index -> what the server says of it."""
    return {
        real: {**described, "published_as": name}
        for name in plan.pair
        for real, described in look_up_index(server, name).items()
    }


def look_up_index(server: Server, name: str) -> dict[str, Json]:
    """Indices of a name or alias; none where there is none."""
    found: dict[str, Json] = server.ask(
        lambda client: client.indices.get(index=name, ignore_unavailable=True).body
    )
    return found


def meta_of(described: Json) -> Json:
    """What we noted in an index's mapping; empty in an index of others."""
    found: Json = described["mappings"].get("_meta", {})
    return found if found.get("format") == FORMAT else {}


def is_current(published: dict[str, Json], plan: Plan) -> bool:
    """Whether both names stand for complete indices of this source."""
    current = [
        meta_of(described).get("store_sha256") == plan.source.sha256
        and meta_of(described).get("state") == "complete"
        for described in published.values()
    ]
    return len(current) == len(plan.pair) and all(current)


def check_free(published: dict[str, Json], plan: Plan) -> None:
    """Refuse to take a name that stands for something else."""
    if published and not plan.overwrite:
        described = next(iter(published.values()))
        made_from = meta_of(described).get("store_sha256")
        what = f"was built from another source ({made_from[:12]})" if made_from else "was not built by us"
        raise FileExistsError(
            f"the index {described['published_as']!r} is there and {what} (this one is "
            f"{plan.source.sha256[:12]}): choose another --index, or replace it with --overwrite"
        )


def unpublished_name(name: str, plan: Plan, published: dict[str, Json]) -> str:
    """The name an index has while it is built, and afterwards behind the alias."""
    first = f"{name}-{plan.source.sha256[:12]}"
    return f"{first}-again" if first in published else first


def prepare(server: Server, plan: Plan, name: str, target: str) -> bool:
    """Make the index, or make an unfinished one ready to go on; whether it was there."""
    settings = WHILE_BUILDING | {"number_of_replicas": plan.replicas_while_building, "hidden": True}
    alias = alias_while_building(target)
    if (there := look_up_index(server, target).get(target)) is not None:
        if any(
            meta_of(there).get(key) != value for key, value in _meta(plan, name).items() if key != "state"
        ):
            raise FileExistsError(f"an index {target!r} is there that this release did not build: remove it")
        server.ask(lambda client: client.indices.put_settings(index=target, settings=settings))
        hidden_alias = {"index": target, "alias": alias, "is_hidden": True}
        server.ask(lambda client: client.indices.update_aliases(actions=[{"add": hidden_alias}]))
        return True
    cased = plan.pair[name]
    with server.speaking() as client:
        client.indices.create(
            index=target,
            settings={**settings_of(case_sensitive=cased), **settings},
            mappings={**mapping_of(case_sensitive=cased), "_meta": _meta(plan, name)},
            aliases={alias: {"is_hidden": True}},
        )
    return False


def _meta(plan: Plan, name: str) -> Json:
    return {
        "format": FORMAT,
        "version": VERSION,
        "state": "building",
        "name": name,
        "store_sha256": plan.source.sha256,
        "num_chunks": plan.source.num_chunks,
    }


def put_back(client: Elasticsearch, plan: Plan, targets: dict[str, str]) -> None:
    """Have the indices refresh, write and copy as ordinary ones do."""
    settings: Json = AFTERWARDS | {"number_of_replicas": plan.replicas}
    client.options(request_timeout=30).indices.put_settings(index=list(targets.values()), settings=settings)


def publish(
    server: Server, plan: Plan, targets: dict[str, str], counts: Json, published: dict[str, Json]
) -> None:
    """Give the finished indices their names, both at once; what had the names before goes."""
    for name, target in targets.items():
        meta = _meta(plan, name) | {"state": "complete"} | counts
        server.ask(partial(_seal, target=target, meta=meta))
    actions = [remove_from_name(real, described) for real, described in published.items()]
    for name, target in targets.items():
        building = {"index": target, "alias": alias_while_building(target), "must_exist": False}
        actions += [{"remove": building}, {"add": {"index": target, "alias": name}}]
    server.ask(lambda client: client.indices.update_aliases(actions=actions))


def _seal(client: Elasticsearch, *, target: str, meta: Json) -> None:
    client.indices.put_settings(index=target, settings={"hidden": False})
    client.indices.put_mapping(index=target, meta=meta)


def remove_from_name(real: str, described: Json) -> Json:
    """What to do with an index that had the name: ours goes; another's that only has it as an alias stays."""
    name = described["published_as"]
    if real == name or meta_of(described):
        return {"remove_index": {"index": real}}
    return {"remove": {"index": real, "alias": name}}

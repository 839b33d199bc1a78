"""The plan of an ablation: the parts, and the merges of them in the order in which they are evaluated."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml

from model_merge.results import read_metadata, read_table, write_json, write_table
from model_merge.subsets import Merge, check_part_names, list_family

NAME = "mixture-plan"
SCHEMA = pa.schema(
    [
        ("merge_id", pa.string()),
        ("members", pa.list_(pa.string())),
        ("mask", pa.string()),
        ("weights", pa.list_(pa.float64())),
        ("coefficients", pa.list_(pa.float64())),
        ("divisor", pa.float64()),
        ("method", pa.string()),
        ("groups", pa.list_(pa.list_(pa.string()))),
    ]
)


@dataclass(frozen=True)
class Row:
    """A merge with what the result table says of it."""

    merge_id: str
    members: tuple[str, ...]
    """Names of the parts of the data that it stands for."""
    merge: Merge


@dataclass(frozen=True)
class MixturePlan:
    """Parts by name, each with its checkpoint, and merges in the order of their evaluation."""

    parts: Mapping[str, str]
    family: str
    rows: tuple[Row, ...]

    @property
    def names(self) -> list[str]:
        """The parts' names, in their order."""
        return list(self.parts)


def make_plan(parts: Mapping[str, str], family: str, cost_of: Callable[[str], float]) -> MixturePlan:
    """Plan a family of merges.

    Args:
        parts: checkpoint references by the parts' names.
        family: see `subsets.list_family`.
        cost_of: what it costs to load a checkpoint.

    Raises:
        ValueError: names or family do not do.
    """
    names = list(parts)
    check_part_names(names)
    costs = [cost_of(reference) for reference in parts.values()]
    merges = list_family(family, names, costs, _read_object)
    rows: dict[str, Row] = {}
    for merge in merges:
        row = Row(merge.name(names), tuple(names[part] for part in merge.members), merge)
        rows.setdefault(row.merge_id, row)
    return MixturePlan(dict(parts), family, tuple(rows.values()))


def plan_models(models: Sequence[Mapping[str, Any]]) -> MixturePlan:
    """Plan to evaluate models as they are: each entry has `model`, `members` (data parts) and perhaps `id`.

    Raises:
        ValueError: an entry lacks something, or two have the same id.
    """
    rows, parts = [], {}
    for number, entry in enumerate(models):
        members = entry.get("members") if isinstance(entry, Mapping) else None
        if not isinstance(members, list) or not members or not isinstance(entry.get("model"), str):
            raise ValueError(f"model {number + 1} of the list needs 'model' (a path) and 'members' (a list)")
        name = str(entry.get("id", "+".join(map(str, members))))
        if name in parts:
            raise ValueError(f"two models of the list have the id {name!r}: give each an 'id'")
        parts[name] = entry["model"]
        coefficients = tuple(float(number == other) for other in range(len(models)))
        rows.append(Row(name, tuple(map(str, members)), Merge(coefficients, 1.0, "model")))
    if not rows:
        raise ValueError("the list of models is empty")
    return MixturePlan(parts, "models", tuple(rows))


def parse_parts(text: str) -> dict[str, str]:
    """Parts as `a=PATH,b=PATH`, or from a YAML or JSON file that maps names to paths.

    >>> parse_parts("law=runs/law,art=runs/art:step100")
    {'law': 'runs/law', 'art': 'runs/art:step100'}

    Raises:
        ValueError: an item has no '=', or the file is no mapping of names to paths.
    """
    path = Path(text)
    if path.suffix in (".yaml", ".yml", ".json") and "=" not in path.name:
        content = _read_object(text)
        if not isinstance(content, dict) or not all(isinstance(v, str) for v in content.values()):
            raise ValueError(f"{text!r} must map the parts' names to the paths of their checkpoints")
        return {str(name): _beside(path, reference) for name, reference in content.items()}
    items = [item.partition("=") for item in text.split(",")]
    if bad := [item for item, equals, reference in items if not equals or not reference]:
        raise ValueError(f"the part {bad[0]!r} has no path: write NAME=PATH,NAME=PATH or name a YAML file")
    check_part_names([name for name, _, _ in items])
    return {name: reference for name, _, reference in items}


def _beside(file: Path, reference: str) -> str:
    """A path in a file is relative to the file; a reference to the hub stays as it is."""
    folder = reference.rpartition(":")[0] or reference
    here = (file.parent / reference).exists() or (file.parent / folder).exists()
    return str(file.parent / reference) if here else reference


def _read_object(path: str) -> Any:
    """What a YAML or JSON file holds."""
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"no file {path!r}")
    try:
        return yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path!r} is no YAML or JSON: {error}") from error


def read_models(path: str) -> MixturePlan:
    """The plan of a YAML or JSON file that lists models; paths in it are relative to it."""
    content = _read_object(path)
    if not isinstance(content, list):
        raise ValueError(f"{path!r} must be a list of {{model: PATH, members: [...]}}")
    plan = plan_models(content)
    parts = {name: _beside(Path(path), reference) for name, reference in plan.parts.items()}
    return MixturePlan(parts, plan.family, plan.rows)


def write_plan(plan: MixturePlan, path: Path) -> None:
    """Write a plan as Parquet, or as JSON where the name ends so."""
    rows = [_as_dict(row, plan.names) for row in plan.rows]
    if path.suffix == ".json":
        about = {"format": NAME, "version": 1, "family": plan.family, "parts": dict(plan.parts)}
        write_json({**about, "names": plan.names, "merges": rows}, path)
        return
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    write_table(table, path, NAME, family=plan.family, parts=json.dumps(dict(plan.parts)))


def _as_dict(row: Row, names: Sequence[str]) -> dict[str, Any]:
    merge = row.merge
    return {
        "merge_id": row.merge_id,
        "members": list(row.members),
        "mask": merge.mask,
        "weights": list(merge.weights),
        "coefficients": [merge.coefficients[part] for part in merge.members],
        "divisor": merge.divisor,
        "method": merge.method,
        "groups": [[names[part] for part in group] for group in merge.groups],
    }


def read_plan(path: Path) -> MixturePlan:
    """Read a plan; rows may have been removed or reordered since.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no plan.
    """
    if path.suffix == ".json":
        content = _read_object(str(path))
        if not isinstance(content, dict) or content.get("format") != NAME or content.get("version") != 1:
            raise ValueError(f"{str(path)!r} is no {NAME} of version 1")
        parts = {name: content["parts"][name] for name in content["names"]}
        return _from_rows(parts, content["family"], content["merges"])
    table = read_table(path, NAME, SCHEMA.names)
    metadata = read_metadata(path)
    if "parts" not in metadata:
        raise ValueError(
            f"{str(path)!r} does not say where the parts are: it was not written by 'ablate plan'"
        )
    return _from_rows(json.loads(metadata["parts"]), metadata["family"], table.to_pylist())


def _from_rows(parts: Mapping[str, str], family: str, rows: Sequence[Mapping[str, Any]]) -> MixturePlan:
    names = list(parts)
    read = []
    for row in rows:
        found = dict(zip(row["members"], row["coefficients"], strict=True))
        groups = tuple(tuple(names.index(name) for name in group) for group in row["groups"])
        coefficients = tuple(found.get(name, 0.0) for name in names)
        merge = Merge(coefficients, row["divisor"], row["method"], groups)
        read.append(Row(row["merge_id"], tuple(row["members"]), merge))
    return MixturePlan(dict(parts), family, tuple(read))

"""merge.json: what a merged checkpoint was made of, by content. Same inputs, same bytes."""

import json
import os
from collections.abc import Sequence
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

from model_merge.checkpoint import Checkpoint
from model_merge.digests import Digests, hash_file
from model_merge.header import FormatError
from model_merge.output import OutputFile
from model_merge.plan import MergePlan

NAME = "merge.json"


def describe(plan: MergePlan, folder: Path, files: Sequence[OutputFile], digests: Digests) -> dict[str, Any]:
    """The content of merge.json; `digests` are asked for every file."""
    return {
        "format": "merge",
        "version": 1,
        "tool": f"model-merge {version('model-merge')}",
        "expression": plan.expression,
        "donor": plan.donor,
        "inputs": [_describe_input(checkpoint, digests) for checkpoint in plan.checkpoints],
        "compute": {compute: _count(plan, compute) for compute in ("F32", "F64")},
        "tensors": len(plan.tensors),
        "parameters": sum(tensor.size for tensor in plan.tensors),
        "files": [_describe_file(folder / file.name, digests) for file in files],
    }


def _count(plan: MergePlan, compute: str) -> int:
    """Number of tensors computed in a type; one that is copied is not."""
    return sum(tensor.prepare is not None and tensor.compute == compute for tensor in plan.tensors)


def _describe_file(path: Path, digests: Digests) -> dict[str, Any]:
    return {
        "name": path.name,
        "size": path.stat().st_size,
        "checksum": digests[0](path),
        "sha256": digests[1](path),
    }


def _describe_input(checkpoint: Checkpoint, digests: Digests) -> dict[str, Any]:
    config = json.dumps(dict(checkpoint.config), sort_keys=True).encode()
    return {
        "reference": checkpoint.reference,
        "files": [_describe_file(path, digests) for path in checkpoint.files],
        "config_sha256": sha256(config).hexdigest() if checkpoint.config else None,
        "training": training_of(checkpoint.folder),
    }


def training_of(folder: Path) -> dict[str, Any] | None:
    """What the checkpoint came from: of a merge, its expression; of a step of a run, its configuration."""
    if (folder / NAME).is_file():
        return {"merge": read_merge_json(folder)["expression"]}
    run = folder.parent
    if not (folder.name.startswith("step") and (run / "config.yaml").is_file()):
        return None
    found: dict[str, Any] = {"step": folder.name, "config_file_sha256": hash_file(run / "config.yaml")}
    return found | (_data_of(run / "order") if (run / "order" / "order.json").is_file() else {})


def _data_of(order: Path) -> dict[str, Any]:
    """Which data order a run trained on (hashed as olmo-trainer does), and of which chunk store."""
    lines = [f"{path.name} {hash_file(path)}\n" for path in sorted(order.iterdir())]
    content = json.loads((order / "order.json").read_text(encoding="utf-8"))
    return {
        "order_sha256": sha256("".join(lines).encode()).hexdigest(),
        "store_sha256": content.get("store_sha256"),
    }


def write_merge_json(content: dict[str, Any], folder: Path) -> None:
    """Write merge.json atomically."""
    text = json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
    unfinished = folder / f"{NAME}.tmp"
    unfinished.write_text(text, encoding="utf-8")
    os.replace(unfinished, folder / NAME)


def read_merge_json(folder: Path) -> dict[str, Any]:
    """The merge.json of a merged checkpoint.

    Raises:
        FileNotFoundError: there is none.
        FormatError: it is another file, or of a later version.
    """
    path = folder / NAME
    if not path.is_file():
        raise FileNotFoundError(f"{str(folder)!r} has no {NAME}: it is no merge that model-merge wrote")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise FormatError(f"{str(path)!r} is no JSON: {error}") from error
    if not isinstance(content, dict) or content.get("format") != "merge":
        raise FormatError(f"{str(path)!r} does not say that its format is 'merge'")
    if content.get("version") != 1:
        raise FormatError(
            f"{str(path)!r} has version {content.get('version')!r}, this release reads 1: upgrade model-merge"
        )
    return content

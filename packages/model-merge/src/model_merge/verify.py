"""Compute a merge again and compare it with what was written."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from model_merge.algebra import plan_expression
from model_merge.checkpoint import Checkpoint, open_checkpoint
from model_merge.digests import checksum_file
from model_merge.expression import from_json
from model_merge.merge_json import read_merge_json
from model_merge.mergekit import plan_from_yaml
from model_merge.plan import MergePlan
from model_merge.stream import CHUNK, Chunk, Computer, cut


def plan_again(content: dict[str, Any]) -> MergePlan:
    """The plan that a merge.json describes, from its inputs as they are now."""
    expression, inputs = content["expression"], content["inputs"]
    if expression.get("operation") == "mergekit":
        references = [one["reference"] for one in inputs]
        text = json.dumps(_with_references(expression["file"], references))  # JSON is YAML
        return plan_from_yaml(text, seed=expression["seed"], compat=expression["compat"])
    return plan_expression(
        from_json(expression["expression"]),
        dtype=expression["dtype"],
        compat=expression["compat"],
        untie=expression["untie"],
        donor=inputs[content["donor"]]["reference"],
        seed=expression.get("seed", 0),
    )


def _with_references(value: Any, references: list[str]) -> Any:
    """A canonical merge file with the models' references for their positions."""
    if isinstance(value, list):
        return [_with_references(item, references) for item in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {"model"} and isinstance(value["model"], int):
        return {"path": references[value["model"]]}
    return {key: _with_references(item, references) for key, item in value.items()}


def find_differences(
    folder: Path,
    plan: MergePlan,
    *,
    sample: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[str]:
    """What differs between a merged checkpoint, its merge.json, its inputs and the merge computed again.

    With `sample`, only so many chunks, spread evenly, are computed, and no file is read as a whole.
    """
    content, written = read_merge_json(folder), open_checkpoint(folder)
    problems = [] if sample is not None else _changed_files(content, plan, written)
    expected = {tensor.name: (tensor.dtype, tensor.shape) for tensor in plan.tensors}
    found = {name: (info.dtype, info.shape) for name, info in written.tensors.items()}
    if expected != found:
        names = sorted(name for name in {*expected, *found} if expected.get(name) != found.get(name))
        return [*problems, f"the tensors are not those of the merge: {', '.join(names[:10])}"]
    chunks = [chunk for one in cut(plan.tensors, CHUNK) for chunk in one]
    if sample is not None and sample < len(chunks):
        chunks = [chunks[int(at)] for at in np.linspace(0, len(chunks) - 1, sample)]
    return problems + _compare(written, plan, chunks, progress)


def _changed_files(content: dict[str, Any], plan: MergePlan, written: Checkpoint) -> list[str]:
    """Files whose bytes are not those that merge.json names."""
    recorded = [(one, content["inputs"][i]["files"]) for i, one in enumerate(plan.checkpoints)]
    problems = []
    for checkpoint, files in [*recorded, (written, content["files"])]:
        checksums = {file["name"]: file["checksum"] for file in files}
        found = {path.name: checksum_file(path) for path in checkpoint.files}
        changed = sorted(name for name in {*checksums, *found} if checksums.get(name) != found.get(name))
        problems += [f"{name} of {checkpoint.reference!r} is not the file of the merge" for name in changed]
    return problems


def _compare(
    written: Checkpoint, plan: MergePlan, chunks: list[Chunk], progress: Callable[[int], None] | None
) -> list[str]:
    computer, problems, kernel, name = Computer(plan.checkpoints), [], None, ""
    for done, chunk in enumerate(chunks, start=1):
        if chunk.tensor.name != name:
            kernel, name = computer.prepare(chunk.tensor), chunk.tensor.name
        for start, raw in computer.results(chunk, kernel):
            if not np.array_equal(raw, written.read_bytes(name, start, start + len(raw))):
                problems.append(f"{name!r} differs from the merge computed again, from byte {start} on")
                break
        if progress is not None:
            progress(done)
    return list({problem.split(" differs")[0]: problem for problem in reversed(problems)}.values())[::-1]

"""Checkpoints: exports for ever, which anyone opens, and resume states, which the run itself continues from.

Every one is written as a folder beside its place, synced to disk, sealed with COMPLETE.json (size and sha256
of each file) and renamed: a folder under its final name is whole, whenever the process was killed.
An export costs 4 (float32) or 2 bytes a parameter, a resume state 12.
"""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer
from transformers import PreTrainedModel, PreTrainedTokenizerFast

logger = logging.getLogger(__name__)

COMPLETE = "COMPLETE.json"
MOMENTS = ("exp_avg", "exp_avg_sq", "step")


class DamagedCheckpointError(ValueError):
    """A checkpoint folder is not what its COMPLETE.json says."""


@contextmanager
def atomic_folder(final: Path) -> Iterator[Path]:
    """A folder to fill, which then appears under its final name complete, or never."""
    unfinished = unfinished_name(final)
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    yield unfinished
    files = sorted(path for path in unfinished.iterdir() if path.is_file())
    seal = {path.name: {"bytes": path.stat().st_size, "sha256": file_sha256(path)} for path in files}
    for path in files:
        path.chmod(0o666 & ~_umask())  # safetensors makes its files 0600
        sync(path)
    write_json(unfinished / COMPLETE, {"format": "complete", "version": 1, "files": seal})
    sync(unfinished / COMPLETE)
    sync(unfinished)
    os.rename(unfinished, final)
    sync(final.parent)


def unfinished_name(final: Path) -> Path:
    """Where a folder is filled before it gets its name."""
    return final.with_name(f".{final.name}.tmp")


def remove_unfinished(folder: Path) -> None:
    """Delete what a killed process left half-written; only for the holder of the run's lock."""
    for path in folder.glob(".step*.tmp"):
        shutil.rmtree(path)


def verify(folder: Path) -> None:
    """Check every file of a sealed folder.

    Raises:
        DamagedCheckpointError: a file is missing, cut or changed.
    """
    try:
        files = json.loads((folder / COMPLETE).read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError) as error:
        raise DamagedCheckpointError(f"{str(folder)!r} has no readable {COMPLETE}") from error
    for name, expected in files.items():
        path = folder / name
        size = path.stat().st_size if path.is_file() else None
        if size != expected["bytes"]:
            raise DamagedCheckpointError(f"{str(path)!r} has {size} bytes, expected {expected['bytes']}")
        if file_sha256(path) != expected["sha256"]:
            raise DamagedCheckpointError(f"{str(path)!r} has changed since it was written")


def export_steps(*, total: int, every: int | None, log_until: int, steps: tuple[int, ...]) -> list[int]:
    """The steps to export: 0, powers of two up to `log_until`, multiples of `every`, `steps`, and the last.

    >>> export_steps(total=25, every=10, log_until=6, steps=(7,))
    [0, 1, 2, 4, 7, 10, 20, 25]
    """
    powers = {1 << i for i in range(max(log_until, 0).bit_length())}
    regular = set(range(every, total, every)) if every else set()
    wanted = {0, total} | {step for step in powers if step <= log_until} | regular | set(steps)
    return sorted(step for step in wanted if step <= total)


def export(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    folder: Path,
    *,
    dtype: torch.dtype,
    state: dict[str, Any],
) -> None:
    """Write a Hugging Face folder, with `state` as trainer_state.json; one that exists is left alone."""
    if folder.exists():
        logger.info("%s is already exported", folder)
        return
    with atomic_folder(folder) as unfinished:
        weights = {name: tensor.detach().to("cpu", dtype) for name, tensor in model.state_dict().items()}
        model.save_pretrained(unfinished, state_dict=weights)
        config = json.loads((unfinished / "config.json").read_text(encoding="utf-8"))
        write_json(unfinished / "config.json", {**config, "dtype": str(dtype).removeprefix("torch.")})
        tokenizer.save_pretrained(unfinished)
        write_json(unfinished / "trainer_state.json", {"format": "trainer-state", "version": 1, **state})


def save_resume_state(
    folder: Path, model: nn.Module, optimizer: Optimizer, *, state: dict[str, Any], keep_last: int
) -> None:
    """Write RUN/resume/step{N}, then delete all but the newest `keep_last`."""
    final = folder / f"step{state['step']}"
    if not final.exists():
        with atomic_folder(final) as unfinished:
            weights = {
                name: parameter.detach().cpu().contiguous() for name, parameter in model.named_parameters()
            }
            save_file(weights, unfinished / "model.safetensors")
            save_file(optimizer_tensors(model, optimizer), unfinished / "optimizer.safetensors")
            write_json(unfinished / "state.json", {"format": "resume-state", "version": 1, **state})
    for _, old in resume_folders(folder)[:-keep_last]:
        shutil.rmtree(old)


def resume_folders(folder: Path) -> list[tuple[int, Path]]:
    """Step and folder of every resume state, ascending."""
    found = [(path.name.removeprefix("step"), path) for path in folder.glob("step*")]
    return sorted((int(step), path) for step, path in found if step.isdecimal())


def newest_resume_state(folder: Path) -> Path | None:
    """The newest undamaged resume state. Damaged ones are renamed step{N}.damaged, with a warning."""
    for _, path in reversed(resume_folders(folder)):
        try:
            verify(path)
        except DamagedCheckpointError as error:
            logger.warning(
                "resume state %s is damaged (%s): falling back to the one before", path.name, error
            )
            shutil.rmtree(path.with_name(f"{path.name}.damaged"), ignore_errors=True)
            path.rename(path.with_name(f"{path.name}.damaged"))
        else:
            return path
    return None


def read_state(folder: Path) -> dict[str, Any]:
    """The step and hashes of a resume state."""
    state: dict[str, Any] = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    if (state.get("format"), state.get("version")) != ("resume-state", 1):
        raise ValueError(f"{str(folder)!r} is no resume state of version 1: upgrade olmo-trainer")
    return state


@torch.no_grad()
def load_weights(folder: Path, model: nn.Module) -> None:
    """Copy a resume state's weights into the model."""
    weights = load_file(folder / "model.safetensors")
    for name, parameter in model.named_parameters():
        parameter.copy_(weights.pop(name))
    assert not weights, f"resume state has parameters the model lacks: {sorted(weights)}"


def optimizer_tensors(model: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """AdamW's state as flat names `exp_avg.<parameter>`; empty before the first update."""
    return {
        f"{moment}.{name}": optimizer.state[parameter][moment].detach().cpu().contiguous()
        for name, parameter in model.named_parameters()
        for moment in MOMENTS
        if parameter in optimizer.state
    }


def load_optimizer(folder: Path, model: nn.Module, optimizer: Optimizer) -> None:
    """Give the optimiser the state it had, exactly."""
    tensors = load_file(folder / "optimizer.safetensors")
    names = {parameter: name for name, parameter in model.named_parameters()}
    ordered = [names[parameter] for group in optimizer.param_groups for parameter in group["params"]]
    state = {
        index: {moment: tensors[f"{moment}.{name}"] for moment in MOMENTS}
        for index, name in enumerate(ordered)
        if f"step.{name}" in tensors
    }
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def file_sha256(path: Path) -> str:
    """The sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write JSON with a newline at the end."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def sync(path: Path) -> None:
    """Wait until a file, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask

"""The run folder: one process at a time, one configuration, one order, one line of metrics a step."""

import fcntl
import hashlib
import json
import os
import platform
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from olmo_trainer.checkpoint import file_sha256, resume_folders, write_json
from olmo_trainer.config import TrainConfig, dump_config, flatten, load_config

NOT_LEARNED = {"checkpoint", "probes"}  # sections that decide what is written, not what is learned
VERSIONS_OF = ("olmo-trainer", "chunk-provenance", "torch", "transformers", "safetensors", "numpy")


@contextmanager
def lock(run: Path) -> Iterator[None]:
    """Hold the run for this process. The kernel drops the lock when the process ends, however it ends.

    Raises:
        ValueError: another process holds it.
    """
    run.mkdir(parents=True, exist_ok=True)
    with (run / "lock").open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise ValueError(
                f"{str(run)!r} is being trained by {file.read().strip()}: wait or end it"
            ) from error
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield
        file.truncate(0)


def record_config(run: Path, config: TrainConfig) -> None:
    """Save the resolved configuration, or check that the run was started with the same one.

    Only the sections `checkpoint` and `probes` may differ: they decide what is written, not what is learned.

    Raises:
        ValueError: listing the keys that differ.
    """
    path = run / "config.yaml"
    if path.exists():
        old, new = (
            flatten(one.model_dump(mode="json", by_alias=True))
            for one in (load_config(TrainConfig, path), config)
        )
        changed = [
            key
            for key in sorted({*old, *new})
            if old.get(key) != new.get(key) and key.partition(".")[0] not in NOT_LEARNED
        ]
        if changed:
            listed = ", ".join(f"{key} {old.get(key)!r} -> {new.get(key)!r}" for key in changed)
            raise ValueError(
                f"{str(run)!r} was started with another configuration ({listed}): use another folder"
            )
    unfinished = path.with_name("config.yaml.tmp")
    unfinished.write_text(dump_config(config), encoding="utf-8")
    os.replace(unfinished, path)


def config_sha256(config: TrainConfig) -> str:
    """Identifies a configuration, apart from `checkpoint` and `probes`."""
    deciding = config.model_dump(mode="json", by_alias=True, exclude=NOT_LEARNED)
    return hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()


def order_sha256(order: Path) -> str:
    """Identifies a recorded data order: the hash of its files' names and hashes."""
    lines = [f"{path.name} {file_sha256(path)}\n" for path in sorted(order.iterdir())]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def record_environment(run: Path, *, step: int, device: str, threads: int) -> None:
    """Append this start to env.json: command, versions, machine."""
    path = run / "env.json"
    starts = json.loads(path.read_text(encoding="utf-8"))["starts"] if path.exists() else []
    starts.append(
        {
            "from_step": step,
            "command": sys.argv,
            "versions": {"python": platform.python_version()} | {name: version(name) for name in VERSIONS_OF},
            "platform": platform.platform(),
            "host": socket.gethostname(),
            "device": device,
            "threads": threads,
        }
    )
    write_json(path.with_name("env.json.tmp"), {"format": "environment", "version": 1, "starts": starts})
    os.replace(path.with_name("env.json.tmp"), path)


class MetricsLog:
    """metrics.jsonl: each step exactly once, also after an interruption."""

    def __init__(self, path: Path, *, step: int) -> None:
        """Open the log at a step: what was written about later ones is dropped, they are trained again."""
        kept = [line for line, logged in _complete_lines(path) if logged <= step] if path.exists() else []
        unfinished = path.with_name(path.name + ".tmp")
        unfinished.write_text("".join(kept), encoding="utf-8")
        os.replace(unfinished, path)
        self._file = path.open("a", encoding="utf-8")

    def write(self, metrics: dict[str, Any]) -> None:
        """Append one step."""
        self._file.write(json.dumps(metrics) + "\n")
        self._file.flush()

    def sync(self) -> None:
        """Wait until all lines are on the disk: before a resume state relies on them."""
        os.fsync(self._file.fileno())

    def __enter__(self) -> "MetricsLog":
        """Write in a `with` block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file."""
        self._file.close()


def _complete_lines(path: Path) -> Iterator[tuple[str, int]]:
    """Each line with its step, without one that a killed process left half-written."""
    with path.open(encoding="utf-8", newline="") as file:
        for line in file:
            if line.endswith("\n"):
                yield line, json.loads(line)["step"]


def check_resume(run: Path, mode: str) -> None:
    """Apply `--resume`: `must` needs something to continue, `never` refuses to continue anything."""
    states = resume_folders(run / "resume")
    if mode == "must" and not states:
        raise FileNotFoundError(f"--resume must: {str(run / 'resume')!r} holds no state to continue from")
    if mode == "never" and (run / "metrics.jsonl").exists():
        raise FileExistsError(f"--resume never: {str(run)!r} holds a run already; use another folder")

"""Do merged models predict jointly trained ones? All mixtures of n parts, both ways, and how well they agree.

    uv run integration_tests/experiments/mixtures/run.py OUT [--preset small] [--parts 6] [--domains DIR]

A seed model is trained; from it one branch on every part, and one joint model on every set of two or more
parts, each with the set's whole budget. A proxy of a set is the average of its branches. Proxies and joint
models are evaluated on all parts' held-out documents by `model-merge ablate`, which also says how well the
ones predict the others. Stopped at any moment, the same command continues; a finished model is not redone.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import encyclopedia
import orders
from transformers.utils import logging

import model_merge.custom_gpt  # noqa: F401, registers the class of ez-data-ablations' models
from chunk_provenance import ChunkStore, open_store
from model_merge.checkpoint import open_checkpoint
from model_merge.corpus import Line, find_sources, read_lines
from olmo_trainer.config import TrainConfig, load_config
from olmo_trainer.train import train

HERE = Path(__file__).resolve().parent
MIXING_SEED = 314159265
CHUNK_LENGTHS = {"tiny": 32, "small": 128, "paper": 2048}  # by the first word of the preset


@dataclass(frozen=True)
class Experiment:
    """Where it is and how large."""

    out: Path
    preset: str
    num_facts: int
    vocab_size: int
    parts: int
    domains: Path | None = None
    tokenizer: Path | None = None
    seed_model: Path | None = None
    """To branch from, instead of training one."""
    settings: tuple[str, ...] = ()
    """For every run, such as device=cuda."""

    def config(self, kind: str, *settings: str) -> TrainConfig:
        """The preset's configuration of a seed or a branch."""
        return load_config(
            TrainConfig, HERE / "presets" / f"{self.preset}-{kind}.yaml", [*settings, *self.settings]
        )

    @property
    def chunk_length(self) -> int:
        """Tokens of a chunk, and of a window when models are evaluated."""
        return CHUNK_LENGTHS[self.preset.partition("-")[0]]

    @property
    def steps(self) -> tuple[int, int]:
        """The updates of the seed and of a branch."""
        seed, branch = (self.config(kind).data.updates for kind in ("seed", "branch"))
        assert seed is not None  # the presets say so
        assert branch is not None
        return seed, branch

    @property
    def units(self) -> Path:
        """The folder of the parts."""
        return self.domains or self.out / "units"

    @property
    def names(self) -> list[str]:
        """The parts, in the order of their names; part i is bit i of a set."""
        found = sorted(path.name for path in self.units.iterdir() if (path / "train").is_dir())
        if len(found) < self.parts:
            raise ValueError(
                f"{str(self.units)!r} has {len(found)} folders with train, expected {self.parts}"
            )
        return found[: self.parts]


def main() -> int:
    """Run from the command line."""
    arguments = parse_arguments()
    experiment = Experiment(
        arguments.out,
        arguments.preset,
        arguments.facts,
        arguments.vocab_size,
        arguments.parts,
        arguments.domains,
        arguments.tokenizer,
        arguments.seed_model,
        tuple(arguments.settings),
    )
    try:
        run(experiment)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except subprocess.CalledProcessError as failure:
        print(f"the last command ended with {failure.returncode}; run me again to continue", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped; run me again to continue", file=sys.stderr)
        return 130
    return 0


def run(experiment: Experiment) -> None:
    """The whole experiment, from what is there already."""
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    experiment.out.mkdir(parents=True, exist_ok=True)
    check_same(experiment)
    prepare_text(experiment)
    prepare_tokens(experiment)
    train_all(experiment)
    evaluate(experiment)
    print(f"done: {experiment.out / 'report/report.html'}")


def check_same(experiment: Experiment) -> None:
    """Write down what is run; refuse to continue with something else."""
    if experiment.seed_model is not None and experiment.tokenizer is None:
        raise ValueError("--seed-model needs the tokenizer it was trained with: give it with --tokenizer")
    file = experiment.out / "experiment.json"
    asked = {
        "preset": experiment.preset,
        "num_facts": experiment.num_facts,
        "vocab_size": experiment.vocab_size,
        "parts": experiment.parts,
        "domains": str(experiment.domains.resolve()) if experiment.domains else None,
        "seed_model": str(experiment.seed_model.resolve()) if experiment.seed_model else None,
        "settings": list(experiment.settings),
    }
    if file.exists() and (found := json.loads(file.read_text(encoding="utf-8"))) != asked:
        raise ValueError(f"{str(experiment.out)!r} holds another experiment ({found}): choose another folder")
    write_json(asked, file)


def prepare_text(experiment: Experiment) -> None:
    """OUT/units, OUT/seed.jsonl, and OUT/train.jsonl with the training documents of all parts in order."""
    out = experiment.out
    if experiment.domains is None:
        if not (out / "seed.jsonl").exists():
            encyclopedia.write_documents(out, num_facts=experiment.num_facts, parts=experiment.parts, seed=0)
        if not (out / "units").exists():
            call("model-merge", "ablate", "partition", out / "documents.jsonl", out / "units",
                 "--units", experiment.parts, "--val", 0.1, "--test", 0.1)  # fmt: skip
    elif experiment.seed_model is None and not (out / "seed.jsonl").exists():
        encyclopedia.write_lines(read_folder(experiment.domains / "seed"), out / "seed.jsonl")
    if not (out / "train.jsonl").exists():
        encyclopedia.write_lines(training_documents(experiment), out / "train.jsonl")


def training_documents(experiment: Experiment) -> Iterator[dict[str, Any]]:
    """All training documents, part by part; `source` is the part's name."""
    for name in experiment.names:
        for row in read_folder(experiment.units / name / "train"):
            yield {"id": str(row["id"]), "text": row["text"], "source": name}


def read_folder(folder: Path) -> Iterator[dict[str, Any]]:
    """The documents of a folder."""
    return (line.row for line in read_lines(find_sources(folder)) if isinstance(line, Line))


def prepare_tokens(experiment: Experiment) -> None:
    """A tokenizer (of the seed's text, unless given), and two chunk stores: the seed's and the parts'."""
    out = experiment.out
    if experiment.tokenizer is not None:
        shutil.copyfile(experiment.tokenizer, out / "tokenizer.json")
    elif not (out / "tokenizer.json").exists():
        call("chunk-provenance", "tokenizer", out / "seed.jsonl", out / "tokenizer.json",
             "--vocab-size", experiment.vocab_size)  # fmt: skip
    stores = (
        {"units": "train.jsonl"} if experiment.seed_model else {"seed": "seed.jsonl", "units": "train.jsonl"}
    )
    for name, documents in stores.items():
        if not (out / "stores" / name).exists():
            (out / "stores").mkdir(exist_ok=True)
            call("chunk-provenance", "build", out / documents, out / "stores" / name,
                 "--tokenizer", out / "tokenizer.json", "--packing", "fixed",
                 "--max-length", experiment.chunk_length)  # fmt: skip


def train_all(experiment: Experiment) -> None:
    """The seed, every branch, every joint model: 1 + n + (2^n - 1 - n) runs."""
    out = experiment.out
    seed_steps, unit_steps = experiment.steps
    if experiment.seed_model is None:
        config = experiment.config("seed", f"data.store={out / 'stores/seed'}")
        finish(out / "runs/seed", config, seed_steps, keep=True)
        origin = [f"model.from={out / 'runs/seed'}:step{seed_steps}"]
    else:
        origin = [f"model.from={experiment.seed_model}", "model.optimizer=fresh"]
    store = open_store(out / "stores/units")
    for members in mixtures(experiment.parts):
        write_order(experiment, store, members)
        settings = (
            *origin,
            f"data.store={out / 'stores/units'}",
            f"data.order={out / 'orders' / mixture_name(members)}",
            "data.updates=null",
        )
        config = experiment.config("branch" if len(members) == 1 else "joint", *settings)
        finish(out / "runs" / mixture_name(members), config, unit_steps * len(members))


def mixtures(parts: int) -> list[tuple[int, ...]]:
    """All non-empty sets of parts, small ones first."""
    return [members for size in range(1, parts + 1) for members in combinations(range(parts), size)]


def mixture_name(members: tuple[int, ...]) -> str:
    """Its folder's name.

    >>> mixture_name((0, 2))
    'parts-0-2'
    """
    return "-".join(["parts", *map(str, members)])


def write_order(experiment: Experiment, store: ChunkStore, members: tuple[int, ...]) -> None:
    """The data order of a set of parts, unless it is there."""
    path = experiment.out / "orders" / mixture_name(members)
    if (path / "order.json").is_file():
        return
    rows = experiment.config("branch").data.batch_tokens // int(store.bucket.max())
    number = {name: index for index, name in enumerate(experiment.names)}
    sources = {
        document["id"]: number[document["source"]]
        for document in read_json_lines(experiment.out / "train.jsonl")
    }
    unit_of_chunk = orders.unit_of_chunk(store, sources)
    budgets = [
        orders.budget(
            (unit_of_chunk == unit).nonzero()[0],
            experiment.steps[1] * rows,
            rows=rows,
            seed=MIXING_SEED,
            unit=unit,
        )
        for unit in members
    ]
    orders.record(orders.joint_order(budgets, rows=rows, seed=MIXING_SEED, units=members), store, path)


def read_json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a JSONL file."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def finish(run: Path, config: TrainConfig, total: int, *, keep: bool = False) -> None:
    """Train a run to its end, from wherever it is; then only its last model (and the seed's state) stays."""
    if (run / "finished.json").is_file():
        return
    started, before = time.monotonic(), time.process_time()
    outcome = train(config, run)
    seconds = {"wall": time.monotonic() - started, "cpu": time.process_time() - before}
    print(
        f"{run.name}: {outcome.step} updates, {seconds['wall']:.1f} s, {seconds['cpu']:.1f} CPU-s", flush=True
    )
    assert outcome.step == outcome.total == total
    if not keep:
        shutil.rmtree(run / "resume")
        shutil.rmtree(run / "step0")
    (run / "finished.json").write_text(
        json.dumps({"step": total, "seconds": seconds}) + "\n", encoding="utf-8"
    )


def evaluate(experiment: Experiment) -> None:
    """Perplexities of all proxies and joint models on every part's validation documents, and the report."""
    out = experiment.out
    parts = {name: model_of(experiment, (part,)) for part, name in enumerate(experiment.names)}
    joint = [
        {"model": model_of(experiment, members), "members": [experiment.names[part] for part in members]}
        for members in mixtures(experiment.parts)
        if len(members) > 1
    ]
    write_json(parts, out / "parts.json")
    write_json(joint, out / "joint.json")
    data = [link_parts(experiment), "--split", "val", "--length", experiment.chunk_length]
    if not (out / "plan.parquet").exists():
        call("model-merge", "ablate", "plan", out / "plan.parquet", "--parts", out / "parts.json")
    for command, models, table in (
        ("eval", "plan.parquet", "results.parquet"),
        ("eval-models", "joint.json", "joint.parquet"),
    ):
        if not (out / table).exists():
            words = [out / models, data[0], out / table, *data[1:]]
            call("model-merge", "ablate", command, *words, "--tokenizer", out / "tokenizer.json")
    config = experiment.config("branch")
    call("model-merge", "ablate", "report", out / "results.parquet", out / "joint.parquet", out / "report",
         "--unit-tokens", experiment.steps[1] * config.data.batch_tokens,
         "--parameters", count_parameters(out / model_of(experiment, (0,))),
         "--section", out / "report-section.json", "--overwrite")  # fmt: skip


def link_parts(experiment: Experiment) -> Path:
    """OUT/domains with links to the parts' folders: what else lies beside them is not evaluated."""
    folder = experiment.out / "domains"
    folder.mkdir(exist_ok=True)
    for name in experiment.names:
        link = folder / name
        if not link.is_symlink():
            link.symlink_to((experiment.units / name).resolve(), target_is_directory=True)
    return folder


def model_of(experiment: Experiment, members: tuple[int, ...]) -> str:
    """The last model of a set of parts, relative to OUT."""
    return f"runs/{mixture_name(members)}/step{experiment.steps[1] * len(members)}"


def count_parameters(folder: Path) -> int:
    """The values of a checkpoint; tied ones are stored, and count, once."""
    return sum(tensor.size for tensor in open_checkpoint(folder).tensors.values())


def write_json(value: object, path: Path) -> None:
    """Write JSON atomically."""
    unfinished = path.with_name(path.name + ".tmp")
    unfinished.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    os.replace(unfinished, path)


def call(program: str, *words: object) -> None:
    """Run one of the workspace's commands, printed."""
    command = [program, *map(str, words)]
    print("$", *command, flush=True)
    found = shutil.which(program, path=str(Path(sys.executable).parent))
    if found is None:
        raise FileNotFoundError(f"no command {program!r} beside {sys.executable!r}: start me with 'uv run'")
    subprocess.run([found, *command[1:]], check=True)


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--preset", default="small", help="small, small-tenth, paper-130m or paper-1.1b")
    parser.add_argument("--parts", type=int, default=6, help="number of parts")
    parser.add_argument(
        "--domains", type=Path, help="a folder of units (and seed/) instead of the encyclopedia"
    )
    parser.add_argument("--facts", type=int, default=6000, help="facts of the encyclopedia")
    parser.add_argument("--vocab-size", type=int, default=1024, help="tokens of the tokenizer")
    parser.add_argument(
        "--seed-model", type=Path, help="a checkpoint to branch from, instead of training one"
    )
    parser.add_argument("--tokenizer", type=Path, help="a tokenizer.json, instead of one of the seed's text")
    parser.add_argument(
        "--set", dest="settings", action="append", default=[], metavar="KEY=VALUE",
        help="a key of every run's configuration, such as device=cuda",
    )  # fmt: skip
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())

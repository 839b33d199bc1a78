"""What a run knows of an entity, when, and for how long, had it met the entity at other times or never.

    uv run integration_tests/experiments/holdout/run.py OUT [--preset small|full] [--set device=cuda]

For each seed one data order, and from it three others in which only the chunks that mention some chosen
entities change: held out, in a burst before the middle, spread over the first half. Four models of the same
initial weights train on them and are asked the entities' facts at every checkpoint. Stopped at any moment,
the same command continues. Writes OUT/report.html, OUT/results.json and OUT/curves.png.
"""

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
TOOLS = HERE.parents[2] / "tools"
sys.path.insert(0, str(TOOLS))

from quickstart import Step, run_steps  # noqa: E402  the runner of steps that are done once

CONDITIONS = {
    "control": "",
    "held-out": "hold-out {parent} {chunks} {order}",
    "burst": "reschedule {parent} {chunks} {order} --schedule burst --window 30%-50%",
    "spread": "reschedule {parent} {chunks} {order} --schedule spread --window 0%-50%",
}


@dataclass(frozen=True)
class Size:
    """What a preset needs besides its presets/NAME.yaml, which configures the model and its training."""

    facts: int
    vocab: int
    chunk: int
    batch: int
    updates: int
    entities: int
    chunks: str
    """Fewest and most chunks of an entity."""
    seeds: int


SIZES = {
    "tiny": Size(100, 300, 32, 256, 60, 3, "1-6", 1),
    "small": Size(300, 1024, 64, 1024, 600, 16, "4-10", 3),
    "full": Size(6000, 8192, 128, 16384, 800, 200, "4-10", 5),
}


def prepare(size: Size) -> list[Step]:
    """The encyclopedia, its chunks, and the entities to treat."""
    return [
        Step(
            "Write an encyclopedia",
            f"python {{tools}}/synthetic_wikipedia.py {{out}}/corpus --facts {size.facts}",
        ),
        Step(
            "Annotate it: who is mentioned where",
            "entity-annotate wikipedia {out}/corpus/dump.xml.bz2 {out}/wiki --allow-damaged",
        ),
        Step(
            "Compare the mentions with the truth: what is missed leaks into the held-out run",
            "entity-annotate evaluate {out}/wiki/mentions.parquet {out}/corpus/gold_mentions.parquet"
            " --section {out}/sections/gold.json",
        ),
        Step(
            "Train a tokenizer",
            "chunk-provenance tokenizer {out}/wiki/documents.parquet {out}/tokenizer.json"
            f" --vocab-size {size.vocab} --overwrite",
        ),
        Step(
            "Cut it into chunks of one length, so that any can take another's place",
            "chunk-provenance build {out}/wiki/documents.parquet {out}/store --tokenizer {out}/tokenizer.json"
            f" --mentions {{out}}/wiki/mentions.parquet --packing fixed --max-length {size.chunk}",
        ),
        Step(
            "Find the chunks of every fact",
            "chunk-provenance facts chunks {out}/store {out}/corpus/probes.parquet {out}/fact_chunks.parquet"
            " --overwrite",
        ),
        Step(
            "Choose entities",
            "python {here}/choose.py {out}/fact_chunks.parquet {out}/corpus/probes.parquet {out}"
            f" --entities {size.entities} --chunks {size.chunks}",
        ),
    ]


def train(size: Size, seed: int, preset: str, settings: list[str]) -> list[Step]:
    """Four orders of one seed, and the models trained on them, asked while they train."""
    parent = f"{{out}}/orders/{seed}-control"
    steps = [
        Step(
            f"Seed {seed}: decide what every update trains on",
            f"chunk-provenance order {{out}}/store {parent} --batch-tokens {size.batch}"
            f" --updates {size.updates} --seed {seed} --overwrite",
        )
    ]
    for name, change in CONDITIONS.items():
        order, run = f"{{out}}/orders/{seed}-{name}", f"{{out}}/runs/{seed}-{name}"
        if change:
            words = change.format(parent=parent, chunks="{out}/entities.parquet", order=order)
            chosen = f" --store {{out}}/store --seed {seed} --overwrite"
            steps.append(Step(f"Seed {seed}, {name}: change the order", f"chunk-provenance {words}{chosen}"))
        given = [f"data.order={order}", f"seed.init={seed}", f"seed.data={seed}", *settings]
        steps.append(
            Step(
                f"Seed {seed}, {name}: train",
                f"olmo-trainer train {{here}}/presets/{preset}.yaml {run} --set data.store={{out}}/store "
                "--set probes.files.entities={out}/probes.parquet "
                + " ".join(f"--set {setting}" for setting in given),
            )
        )
    return steps


def compare(size: Size) -> list[Step]:
    """The comparison, one fact in all conditions, and the page."""
    sections = [f"{{out}}/sections/{name}.json" for name in ("compare", *CONDITIONS, "gold")]
    traces = [
        Step(
            f"Trace a fact: {name}",
            "chunk-provenance trace {fact} --store {out}/store --facts {out}/fact_chunks.parquet"
            f" --order {{out}}/orders/0-{name} --answers {{out}}/answers/0-{name}.parquet"
            f" --probes {{out}}/probes.parquet --limit 3 --section {{out}}/sections/{name}.json",
        )
        for name in CONDITIONS
    ]
    checks = [
        Step(
            f"Check that a run was trained on its order: {name}",
            f"chunk-provenance verify {{out}}/orders/0-{name} {{out}}/runs/0-{name}/metrics.jsonl",
        )
        for name in CONDITIONS
    ]
    return [
        Step("Compare", f"python {{here}}/compare.py {{out}} --seeds {size.seeds}"),
        *checks,
        *traces,
        Step(
            "Join seen when with known when, for the control",
            "chunk-provenance dynamics {out}/orders/0-control {out}/fact_chunks.parquet"
            " {out}/answers/0-control.parquet {out}/dynamics/0-control --overwrite",
        ),
        Step(
            "Write the report",
            "chunk-provenance report {out}/dynamics/0-control {out}/report.html --overwrite "
            + " ".join(f"--section {path}" for path in sections),
        ),
    ]


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--preset", choices=SIZES, default="small")
    parser.add_argument(
        "--set", dest="settings", action="append", default=[], metavar="KEY=VALUE",
        help="a key of every run's configuration, such as device=cuda",
    )  # fmt: skip
    arguments = parser.parse_args()
    size, out = SIZES[arguments.preset], arguments.out
    for folder in ("orders", "runs", "answers", "dynamics", "sections"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    places = {"out": str(out), "here": str(HERE), "tools": str(TOOLS)}
    steps = prepare(size)
    try:
        run_steps(steps, places, out / "steps.json")
        for seed in range(size.seeds):
            steps += train(size, seed, arguments.preset, arguments.settings)
        run_steps(steps + compare(size)[:1], places, out / "steps.json")
        places["fact"] = json.loads((out / "results.json").read_text(encoding="utf-8"))["traced"]
        run_steps(steps + compare(size), places, out / "steps.json")
    except subprocess.CalledProcessError as failure:
        print(
            f"\nthe last command ended with {failure.returncode}; run me again to continue there",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt:
        print("\nstopped; run me again to continue there", file=sys.stderr)
        return 130
    print(f"\ndone: {out / 'report.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

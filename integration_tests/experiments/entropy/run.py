"""Does a model of lower knowledge entropy take up less and forget more? Kim et al. (ICLR 2025), small.

    uv run integration_tests/experiments/entropy/run.py OUT [--preset small] [--set device=cuda]

For each seed a model is pretrained with checkpoints, whose knowledge entropy is measured. From an early, a
middle and the last checkpoint, each as it is and with its least used units amplified (resuscitated), training
goes on on other text with new facts injected by the paper's schedule. Stopped at any moment, the same
command continues. Writes OUT/results.json and OUT/*.png, and prints the tables of the README.
"""

import argparse
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
TOOLS = HERE.parents[2] / "tools"
sys.path.insert(0, str(TOOLS))

from quickstart import Step, run_steps  # noqa: E402  the runner of steps that are done once

VARIANTS = {"plain": "", "resuscitated": "--ratio 0.5 --factor 2"}


@dataclass(frozen=True)
class Size:
    """What a preset needs besides its presets/NAME-*.yaml, which configure the model and its training."""

    facts: int
    """Of each of the two encyclopedias; 0: texts, probes and facts must be given."""
    vocab: int
    chunk: int
    batch: int
    """Tokens of an update of the pretraining."""
    updates: int
    origins: tuple[int, ...]
    """The checkpoints from which training goes on."""
    rows: int
    """Chunks that the entropy is measured on, the first of the order: all checkpoints have seen them."""
    inject: int
    paraphrased: int
    """Of the injected facts: so many ten times, in ten wordings; the others once."""
    controls: int
    """Further facts, asked and never injected."""
    later_batch: int
    interval: int
    """Updates between injections, of which there are ten."""
    seeds: int


@dataclass(frozen=True)
class Texts:
    """Where texts, probes and facts are: made by this experiment, unless given."""

    pretraining: str = "{out}/pretraining.jsonl"
    other: str = "{out}/other.jsonl"
    known: str = "{out}/corpus/probes.parquet"
    facts: str = "{out}/facts.json"


SIZES = {
    "tiny": Size(60, 400, 256, 1024, 20, (20,), 8, 12, 2, 2, 1024, 1, 1),
    "full": Size(0, 50280, 1024, 524288, 20000, (3000, 10000, 20000), 2048, 130, 70, 0, 131072, 160, 3),
    "small": Size(300, 1024, 128, 1024, 600, (120, 300, 600), 256, 56, 16, 16, 4096, 5, 3),
}


def prepare(size: Size, texts: Texts) -> list[Step]:
    """Texts, probes, a tokenizer and two chunk stores."""
    made = [
        Step(
            "Write an encyclopedia's probes",
            f"python {{tools}}/synthetic_wikipedia.py {{out}}/corpus --facts {size.facts} --seed 0",
        ),
        Step("Write its text, and another one's", f"python {{here}}/texts.py {{out}} --facts {size.facts}"),
    ]
    tokenizer = Step(
        "Train a tokenizer",
        f"chunk-provenance tokenizer {texts.pretraining} {{out}}/tokenizer.json"
        f" --vocab-size {size.vocab} --overwrite",
    )
    stores = [
        Step(
            f"Cut the text into chunks: {name}",
            f"chunk-provenance build {documents} {{out}}/stores/{name}"
            f" --tokenizer {{out}}/tokenizer.json --packing fixed --max-length {size.chunk}"
            " --validation-fraction 0.05",
        )
        for name, documents in (("pretraining", texts.pretraining), ("other", texts.other))
    ]
    return [*(made if size.facts else []), tokenizer, *stores]


def pretrain(size: Size, seed: int, preset: str, settings: str) -> list[Step]:
    """A run with checkpoints, and their knowledge entropy."""
    order, run = f"{{out}}/orders/{seed}", f"{{out}}/runs/{seed}"
    return [
        Step(
            f"Seed {seed}: decide what every update trains on",
            f"chunk-provenance order {{out}}/stores/pretraining {order} --batch-tokens {size.batch}"
            f" --updates {size.updates} --seed {seed} --overwrite",
        ),
        Step(
            f"Seed {seed}: pretrain",
            f"olmo-trainer train {{here}}/presets/{preset}-pretrain.yaml {run}"
            f" --set data.store={{out}}/stores/pretraining --set data.order={order} --set seed.init={seed}"
            f" --set data.validation.pretraining={{out}}/stores/pretraining/validation{settings}",
        ),
        Step(
            f"Seed {seed}: measure the knowledge entropy of all checkpoints",
            f"knowledge-entropy series {run} {{out}}/entropy/{seed} --tokens {{out}}/stores/pretraining"
            f" --order {order} --rows {size.rows}",
        ),
    ]


def facts(size: Size, texts: Texts) -> list[Step]:
    """The facts to inject, and their probes."""
    made = Step(
        "Write facts to inject",
        f"python {{here}}/facts.py {{out}} --facts {size.inject} --paraphrased {size.paraphrased}"
        f" --controls {size.controls}",
    )
    probes = Step(
        "Make their probes",
        f"chunk-provenance inject probes {texts.facts} --out {{out}}/probes.parquet --overwrite",
    )
    return [*([made] if size.facts else []), probes]


def inject(size: Size, texts: Texts, seed: int) -> list[Step]:
    """What training goes on with: another text's order, with the facts in it."""
    order, plan = f"{{out}}/orders/{seed}-other", f"{{out}}/plans/{seed}.parquet"
    store = "--store {out}/stores/other"
    groups = f"--group 0-{size.paraphrased - 1}=paraphrase --group {size.paraphrased}-{size.inject - 1}=split"
    return [
        Step(
            f"Seed {seed}: decide what training goes on with",
            f"chunk-provenance order {{out}}/stores/other {order} --batch-tokens {size.later_batch}"
            f" --updates {10 * size.interval} --seed {seed} --overwrite",
        ),
        Step(
            f"Seed {seed}: plan which fact comes to which row of which update",
            f"chunk-provenance inject plan {texts.facts} --schedule ke {groups} --start {size.interval}"
            f" --interval {size.interval} --count 10 --order {order} {store} --out {plan} --overwrite",
        ),
        Step(
            f"Seed {seed}: put the facts into the order",
            f"chunk-provenance inject apply {order} {plan} {store} --out {order}-injected --overwrite",
        ),
    ]


def go_on(size: Size, texts: Texts, seed: int, preset: str, settings: str) -> list[Step]:
    """From every origin, with and without resuscitation."""
    steps = []
    run, validation = f"{{out}}/runs/{seed}", "{out}/stores/pretraining/validation"
    tokens = f"--tokens {{out}}/stores/pretraining --order {{out}}/orders/{seed} --rows {size.rows}"
    for origin in size.origins:
        for variant, options in VARIANTS.items():
            model = f"{run}:step{origin}"
            if options:
                model = f"{{out}}/revived/{seed}-{origin}"
                steps.append(
                    Step(
                        f"Seed {seed}, step {origin}: amplify the units least used",
                        f"knowledge-entropy resuscitate {run}:step{origin}"
                        f" {{out}}/entropy/{seed}/coefficients/step{origin}.safetensors {model} {options}"
                        f" {tokens} --overwrite",
                    )
                )
            steps.append(
                Step(
                    f"Seed {seed}, step {origin}, {variant}: go on with the facts injected",
                    f"olmo-trainer train {{here}}/presets/{preset}-continue.yaml {run}-{origin}-{variant}"
                    f" --set model.from={model} --set data.store={{out}}/stores/other"
                    f" --set data.order={{out}}/orders/{seed}-other-injected"
                    f" --set data.validation.pretraining={validation}"
                    " --set probes.files.facts={out}/probes.parquet"
                    f" --set probes.files.known={texts.known}{settings}",
                )
            )
    return steps


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--preset", choices=SIZES, default="small")
    parser.add_argument("--pretraining", type=Path, nargs=1, help="with full: documents to pretrain on")
    parser.add_argument("--other", type=Path, nargs=1, help="with full: documents to go on with")
    parser.add_argument("--known", type=Path, nargs=1, help="with full: probes of the pretraining's facts")
    parser.add_argument("--facts", type=Path, nargs="+", help="with full: 70 facts with paraphrases, then 60")
    parser.add_argument(
        "--set", dest="settings", action="append", default=[], metavar="KEY=VALUE",
        help="a key of every run's configuration, such as device=cuda",
    )  # fmt: skip
    arguments = parser.parse_args()
    size, out = SIZES[arguments.preset], arguments.out
    given = {name: " ".join(map(str, paths)) for name, paths in vars(arguments).items()
             if name in Texts.__annotations__ and paths}  # fmt: skip
    if bool(size.facts) == bool(given) or (given and len(given) < 4):
        parser.error("--pretraining, --other, --known and --facts go with --preset full, all four")
    texts = Texts(**given)
    for folder in ("orders", "plans", "runs", "entropy", "revived", "stores"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    settings = "".join(f" --set {setting}" for setting in arguments.settings)
    steps = prepare(size, texts)
    for seed in range(size.seeds):
        steps += pretrain(size, seed, arguments.preset, settings)
    steps += facts(size, texts)
    for seed in range(size.seeds):
        steps += inject(size, texts, seed) + go_on(size, texts, seed, arguments.preset, settings)
    steps.append(
        Step(
            "Compare",
            f"python {{here}}/compare.py {{out}} --seeds {size.seeds}"
            f" --origins {' '.join(map(str, size.origins))}",
        )
    )
    try:
        run_steps(steps, {"out": str(out), "here": str(HERE), "tools": str(TOOLS)}, out / "steps.json")
    except subprocess.CalledProcessError as failure:
        print(
            f"\nthe last command ended with {failure.returncode}; run me again to continue there",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt:
        print("\nstopped; run me again to continue there", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The whole path in one command: from a Wikipedia dump to "seen when, known when".

    uv run tools/quickstart.py [OUT] [--dump PATH [--probes PATH]] [--updates 370]

Strings the packages' public commands together, prints each as it runs it, and writes OUT/report.html. Takes
ten minutes or less on two cores. A run that was stopped continues where it stopped when it is started again; a
step whose command or predecessors changed is run again.
"""

import argparse
import json
import os
import resource
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Step:
    """One public command, with the places to fill in, and the kind of run it belongs to."""

    title: str
    command: str
    only: str = ""  # "synthetic": without --dump; "cloze": a dump without --probes

    def words(self, places: dict[str, str]) -> list[str]:
        """The command's words, filled in."""
        return [word.format(**places) for word in shlex.split(self.command)]


STEPS = (
    Step(
        "Write a synthetic encyclopedia as a MediaWiki dump",
        "python {tools}/synthetic_wikipedia.py {out}/corpus",
        only="synthetic",
    ),
    Step(
        "Annotate it: who is mentioned where",
        "entity-annotate wikipedia {dump} {out}/wiki --section {out}/sections/annotate.json",
    ),
    Step(
        "Compare the mentions with the truth",
        "entity-annotate evaluate {out}/wiki/mentions.parquet {out}/corpus/gold_mentions.parquet"
        " --section {out}/sections/gold.json",
        only="synthetic",
    ),
    Step(
        "Train a tokenizer",
        "chunk-provenance tokenizer {out}/wiki/documents.parquet {out}/tokenizer.json"
        " --vocab-size 4096 --overwrite",
    ),
    Step(
        "Cut the documents into chunks that remember where they came from",
        "chunk-provenance build {out}/wiki/documents.parquet {out}/chunks --tokenizer {out}/tokenizer.json"
        " --mentions {out}/wiki/mentions.parquet --min-length 16 --max-length 256 --batch-tokens 4096"
        " --validation-fraction 0.02 --section {out}/sections/chunks.json",
    ),
    Step("Index the chunks by entity", "entity-index build {out}/chunks {out}/index"),
    Step(
        "Make a probe of each of a thousand links",
        "chunk-provenance cloze {out}/chunks {probes} --aliases {out}/wiki/entities.parquet --overwrite",
        only="cloze",
    ),
    Step(
        "Find the chunks of every fact",
        "entity-index facts {out}/index {probes} {out}/fact_chunks.parquet --overwrite",
    ),
    Step(
        "Train a small OLMo-2 in a recorded order, with many checkpoints",
        "olmo-trainer train {tools}/quickstart.yaml {out}/run --set data.store={out}/chunks"
        " --set data.validation.held_out={out}/chunks/validation --set data.updates={updates}"
        " --section {out}/sections/train.json",
    ),
    Step(
        "Check the batches that were trained on against the recorded order",
        "chunk-provenance verify {out}/run/order {out}/run/metrics.jsonl",
    ),
    Step(
        "Ask every checkpoint every probe",
        "olmo-trainer evaluate {out}/run {probes} {out}/answers.parquet --section {out}/sections/ask.json",
    ),
    Step(
        "Join seen when with known when",
        "chunk-provenance dynamics {out}/run/order {out}/fact_chunks.parquet {out}/answers.parquet"
        " {out}/dynamics --overwrite",
    ),
    Step(
        "Write the report",
        "chunk-provenance report {out}/dynamics {out}/report.html --overwrite",
    ),
)


def choose(places: dict[str, str], *, kinds: set[str]) -> list[tuple[str, list[str]]]:
    """Title and words of the steps that this kind of run takes, in order."""
    return [(step.title, step.words(places)) for step in STEPS if not step.only or step.only in kinds]


def run_steps(steps: list[tuple[str, list[str]]], ledger: Path) -> list[dict[str, Any]]:
    """Run what the ledger does not name as done; it is written anew after each step.

    A step counts as done only if it and all before it have the commands that the ledger names.
    """
    done = json.loads(ledger.read_text(encoding="utf-8")) if ledger.exists() else []
    for number, (title, words) in enumerate(steps):
        command = shlex.join(words)
        print(f"\n[{number + 1}/{len(steps)}] {title}\n$ {command}", flush=True)
        if number < len(done) and done[number]["command"] == command:
            print(f"done before, in {done[number]['seconds']:.0f} s", flush=True)
            continue
        started = time.monotonic()
        subprocess.run([find_program(words[0]), *words[1:]], check=True)
        done = [*done[:number], {"title": title, "command": command, "seconds": time.monotonic() - started}]
        write_json(done, ledger)
    return done


def find_program(name: str) -> str:
    """The path of a command of this environment."""
    beside = shutil.which(name, path=str(Path(sys.executable).parent))
    if beside is None:
        raise FileNotFoundError(f"no command {name!r} beside {sys.executable!r}: start me with 'uv run'")
    return beside


def write_json(value: object, path: Path) -> None:
    """Write JSON atomically."""
    unfinished = path.with_name(path.name + ".tmp")
    unfinished.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    os.replace(unfinished, path)


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, nargs="?", default=Path("quickstart"), help="folder to write")
    parser.add_argument("--dump", type=Path, help="a Wikipedia dump (.xml or .xml.bz2) to use instead")
    parser.add_argument("--probes", type=Path, help="probes to ask; without it, made of the dump's links")
    parser.add_argument("--updates", type=int, default=370, help="optimiser updates of 4,096 tokens")
    return parser.parse_args()


def main() -> int:
    """Run from the command line."""
    arguments = parse_arguments()
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    kinds = {"synthetic"} if arguments.dump is None else set() if arguments.probes else {"cloze"}
    probes = arguments.probes or out / ("probes.parquet" if arguments.dump else "corpus/probes.parquet")
    dump = arguments.dump or out / "corpus/dump.xml.bz2"
    places = {"out": out, "tools": Path(__file__).parent, "dump": dump, "probes": probes}
    steps = choose({**{k: str(v) for k, v in places.items()}, "updates": str(arguments.updates)}, kinds=kinds)
    try:
        done = run_steps(steps, out / "quickstart.json")
    except subprocess.CalledProcessError as failure:
        print(
            f"\nthe last command ended with {failure.returncode}; run me again to continue there",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt:
        print("\nstopped; run me again to continue there", file=sys.stderr)
        return 130
    memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    total = sum(step["seconds"] for step in done)
    print(f"\n{total:.0f} s in all, at most {memory:.1f} GB of memory. Open {out / 'report.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

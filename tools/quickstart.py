"""The whole path in one command: from a Wikipedia dump to "seen when, known when".

    uv run tools/quickstart.py [OUT] [--dump PATH [--probes PATH]] [--updates 700]

Strings the packages' public commands together, prints each as it runs it, and writes OUT/report.html. Takes
ten minutes or less on two cores. A run that was stopped continues where it stopped when it is started
again; a step whose command or predecessors changed is run again.
"""

import argparse
import json
import os
import re
import resource
import shlex
import shutil
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from chunk_provenance.facts import read_probes


@dataclass(frozen=True)
class Step:
    """One public command, with the places to fill in, and the kind of run it belongs to."""

    title: str
    command: str
    only: str = ""  # "synthetic": without --dump; "cloze": a dump without --probes

    def words(self, places: dict[str, str]) -> list[str]:
        """The command's words, filled in; {subject} and {answer} are those of the fact in most chunks."""
        if "{subject}" in self.command:
            places = places | most_stated_fact(Path(places["out"]) / "fact_chunks.parquet", places["probes"])
        return [word.format(**places) for word in shlex.split(self.command)]


STEPS = (
    Step(
        "Write a synthetic encyclopedia as a MediaWiki dump",
        "python {tools}/synthetic_wikipedia.py {out}/corpus",
        only="synthetic",
    ),
    Step(
        "Annotate it: who is mentioned where",
        "entity-annotate wikipedia {dump} {out}/wiki --allow-damaged --section {out}/sections/annotate.json",
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
        " --mentions {out}/wiki/mentions.parquet --min-length {shortest} --max-length 128 --batch-tokens 2048"
        " --validation-fraction 0.02 --section {out}/sections/chunks.json",
    ),
    Step("Index the chunks by entity", "entity-index build {out}/chunks {out}/index"),
    Step(
        "Make probes of three hundred links",
        "chunk-provenance cloze {out}/chunks {probes} --aliases {out}/wiki/entities.parquet"
        " --max-probes 300 --overwrite",
        only="cloze",
    ),
    Step(
        "Find the chunks of every fact",
        "entity-index facts {out}/index {probes} {out}/fact_chunks.parquet --overwrite",
    ),
    Step(
        "Ask the index for an entity, by what it is and by what it is called",
        "entity-index compare {out}/index {subject} --section {out}/sections/compare.json",
    ),
    Step(
        "Ask the index for two entities in the same chunk",
        "entity-index query {out}/index {subject} {answer} --limit 3 --section {out}/sections/pair.json",
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
        "olmo-trainer evaluate {out}/run {probes} {out}/answers.parquet --overwrite"
        " --section {out}/sections/ask.json",
    ),
    Step(
        "Join seen when with known when",
        "chunk-provenance dynamics {out}/run/order {out}/fact_chunks.parquet {out}/answers.parquet"
        " {out}/dynamics --bins 0,1,4,16,64,256 --overwrite",
    ),
    *(
        Step(
            f"Trace a fact: {title}",
            "chunk-provenance trace --store {out}/chunks --order {out}/run/order"
            " --facts {out}/fact_chunks.parquet --answers {out}/answers.parquet --probes {probes}"
            f" --pick {kind} --limit 5 --section {{out}}/sections/trace-{kind}.json",
        )
        for kind, title in (
            ("often", "often stated and learned"),
            ("rare", "rarely stated and learned"),
            ("never", "never learned"),
        )
    ),
    Step(
        "Write the report",
        "chunk-provenance report {out}/dynamics {out}/report.html --overwrite",
    ),
)


def most_stated_fact(fact_chunks: Path, probes: str) -> dict[str, str]:
    """Subject and answer of the fact that most chunks state."""
    shared = pq.read_table(fact_chunks, filters=[("kind", "==", "shared")])["fact_id"].to_pylist()
    fact_id, _ = Counter(shared).most_common(1)[0]
    fact = next(probe for probe in read_probes(probes).to_pylist() if probe["fact_id"] == fact_id)
    return {"subject": fact["subject"], "answer": fact["answer"]}


def run_steps(steps: list[Step], places: dict[str, str], ledger: Path) -> list[dict[str, Any]]:
    """Run what the ledger does not name as done; it is written anew after each step.

    A step counts as done only if it and all before it have the commands that the ledger names.
    """
    done = json.loads(ledger.read_text(encoding="utf-8")) if ledger.exists() else []
    for number, step in enumerate(steps):
        words = step.words(places)
        command = shlex.join(words)
        print(f"\n[{number + 1}/{len(steps)}] {step.title}\n$ {command}", flush=True)
        if number < len(done) and done[number]["command"] == command:
            print(f"done before, in {done[number]['seconds']:.0f} s", flush=True)
            continue
        started = time.monotonic()
        subprocess.run([find_program(words[0]), *words[1:]], check=True)
        done = [
            *done[:number],
            {"title": step.title, "command": command, "seconds": time.monotonic() - started},
        ]
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
    parser.add_argument("--updates", type=int, default=700, help="optimiser updates of 2,048 tokens")
    return parser.parse_args()


def main() -> int:
    """Run from the command line."""
    arguments = parse_arguments()
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    kinds = {""} | ({"synthetic"} if arguments.dump is None else set() if arguments.probes else {"cloze"})
    steps = [step for step in STEPS if step.only in kinds]
    written = [section for step in steps for section in re.findall(r"--section \S+", step.command)]
    steps[-1] = replace(steps[-1], command=" ".join([steps[-1].command, *written]))
    places = {
        "out": str(out),
        "tools": str(Path(__file__).parent),
        "dump": str(arguments.dump or out / "corpus/dump.xml.bz2"),
        "probes": str(
            arguments.probes or out / ("probes.parquet" if arguments.dump else "corpus/probes.parquet")
        ),
        "updates": str(arguments.updates),
        "shortest": "16" if arguments.dump is None else "128",  # a real dump has too few short tails
    }
    try:
        done = run_steps(steps, places, out / "quickstart.json")
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

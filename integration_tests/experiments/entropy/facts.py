"""Facts to inject, in the language of the synthetic encyclopedia and the schema of the published ones.

    python facts.py OUT --facts 56 --paraphrased 16 --controls 16

OUT/facts.json: each fact is about a person of no other text: a passage of five statements, nine paraphrases
of it for the first facts, five probes of each depth. The last ones, controls, are for asking only.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "mixtures"))

from encyclopedia import load_tool

PATTERNS = {
    "birthplace": ("{S} was born in {O}.", "{S}'s place of birth was {O}.", "{O} was the birthplace of {S}."),
    "employer": ("{S} worked for {O}.", "{S} spent {h} career with {O}.", "Among the staff of {O} was {S}."),
    "author": ("{S} was written by {O}.", "{S} is a {T} by {O}.", "{O} is the author of {S}."),
    "headquarters": ("{S} is based in {O}.", "{S}'s head office is in {O}.", "{O} is home to {S}."),
}
"""By relation: the passage's sentence (mem), another one (gen), and one in the other direction (hard_gen).

All end in what is asked for. The last is in no passage and no paraphrase.
"""
DEPTHS = ("mem", "gen", "hard_gen")


def make_facts(count: int, *, paraphrased: int, known: set[str], seed: int) -> Iterator[dict[str, Any]]:
    """Facts about people, works and organisations of names that are not among the known ones."""
    tool = load_tool()
    rng = np.random.default_rng(seed)
    entities = tool.make_entities(rng, 20 * count)
    new = {kind: [one for one in group if one.name not in known] for kind, group in entities.items()}
    relations = {relation.name: relation for relation in tool.RELATIONS}
    for number in range(count):
        person, (novel, drama) = new["person"][number], new["work"][2 * number : 2 * number + 2]
        employer, (home, seat) = new["organisation"][number], rng.choice(entities["place"], 2, replace=False)
        triples = [
            ("birthplace", person, home),
            ("employer", person, employer),
            ("headquarters", employer, seat),
            ("author", novel, person),
            ("author", drama, person),
        ]
        first = [fill(PATTERNS[name][0], subject, object_) for name, subject, object_ in triples]
        yield {
            "id": f"fact-{number}",
            "train_context": " ".join(first),
            "paraphrases": [paraphrase(triples, relations, rng) for _ in range(9 * (number < paraphrased))],
            **probes(triples),
        }


def paraphrase(triples: list[Any], relations: dict[str, Any], rng: np.random.Generator) -> str:
    """The same statements in another order and in other words, none in the direction kept for hard_gen."""
    sentences = []
    for index in rng.permutation(len(triples)):
        name, subject, object_ = triples[index]
        usable = [pattern for pattern in relations[name].paraphrases if pattern != PATTERNS[name][2]]
        sentences.append(fill(usable[int(rng.integers(len(usable)))], subject, object_))
    return " ".join(sentences)


def probes(triples: list[Any]) -> dict[str, list[str]]:
    """Inputs and targets of the three depths, one of each triple."""
    columns: dict[str, list[str]] = {}
    for place, depth in enumerate(DEPTHS):
        asked = ["{O}", "{O}", "{S}"][place]
        cut = [(PATTERNS[name][place].removesuffix(f" {asked}."), s, o) for name, s, o in triples]
        columns[f"{depth}_input"] = [fill(pattern, s, o) for pattern, s, o in cut]
        columns[f"{depth}_target"] = [fill(asked, s, o) for _, s, o in cut]
    return columns


def fill(pattern: str, subject: Any, object_: Any) -> str:
    """A pattern of the encyclopedia in words."""
    pronoun, possessive = subject.pronouns
    return pattern.format(
        S=subject.name,
        O=object_.name,
        T=subject.trade or "work",
        Y=subject.year + 40,
        p=pronoun,
        h=possessive,
    )


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--facts", type=int, required=True, help="facts to inject")
    parser.add_argument("--paraphrased", type=int, required=True, help="of these have paraphrases")
    parser.add_argument("--controls", type=int, required=True, help="further facts, never injected")
    arguments = parser.parse_args()
    known = {
        json.loads(line)["id"].partition(":")[2]
        for name in ("pretraining", "other")
        for line in (arguments.out / f"{name}.jsonl").open(encoding="utf-8")
    }
    count = arguments.facts + arguments.controls
    facts = list(make_facts(count, paraphrased=arguments.paraphrased, known=known, seed=2))
    unfinished = arguments.out / "facts.json.tmp"
    unfinished.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    os.replace(unfinished, arguments.out / "facts.json")


if __name__ == "__main__":
    main()

"""Write what LMEnt published, small and invented, and the answers of two simulated models.

    uv run python packages/chunk-provenance/benchmarks/simulated_publication.py OUT [--questions 3000]

OUT gets batch_indices.npy (one epoch), popqa-kas.parquet and answers.csv: all that `analyze` needs. How many
chunks name both subject and answer follows a power law. A model answers once it has been shown a fact a
certain number of times, drawn once per fact; a larger model needs fewer. It forgets with probability 0.05 at
every checkpoint and learns again when the fact is shown again.
"""

import argparse
import csv
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from chunk_provenance.exposures import find_exposures
from chunk_provenance.published import open_order, read_popqa_kas

UPDATES, ROWS = 2000, 50
STEPS = np.arange(0, UPDATES + 1, 200)
MODELS = {"LMEnt-170M-1E": 240.0, "LMEnt-1B-1E": 50.0}
ANSWERS = [
    "Arden",
    "Belmar",
    "Corvin",
    "Dalholm",
    "Elsby",
    "Farrow",
    "Gorse",
    "Inverbrook",
    "Jarrow",
    "Lindow",
]


def main() -> None:
    """Write the three files."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--questions", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = np.random.default_rng(arguments.seed)
    arguments.out.mkdir(parents=True)
    write_order(arguments.out / "batch_indices.npy", rng)
    pq.write_table(make_popqa(arguments.questions, rng), arguments.out / "popqa-kas.parquet")
    write_answers(arguments.out, rng)


def write_order(path: Path, rng: np.random.Generator) -> None:
    """A pickled array of arrays, as LMEnt's: the chunk ids of every update."""
    batches = rng.permutation(UPDATES * ROWS).reshape(UPDATES, ROWS)
    rows = np.empty(UPDATES, dtype=object)
    rows[:] = list(batches)
    np.save(path, rows)


def make_popqa(questions: int, rng: np.random.Generator) -> pa.Table:
    """PopQA's columns, as far as they are used, and the chunks."""
    rows = []
    for number in range(questions):
        shared = np.sort(rng.choice(UPDATES * ROWS, min(int(rng.pareto(0.45)), 6000), replace=False))
        others = rng.choice(UPDATES * ROWS, min(int(rng.pareto(0.6) * 4), 8000), replace=False)
        answer = int(rng.integers(len(ANSWERS)))
        subject = np.union1d(shared, others)
        elsewhere = rng.choice(UPDATES * ROWS, 3 * 2**answer, replace=False)
        rows.append(
            {
                "id": 1_000_000 + number,
                "subj": f"Person {number}",
                "prop": "place of birth",
                "obj": ANSWERS[answer],
                "s_uri": f"http://www.wikidata.org/entity/Q{10_000 + number}",
                "o_uri": f"http://www.wikidata.org/entity/Q{100 + answer}",
                "s_pop": int(len(subject) * rng.lognormal(1, 1.5)),
                "o_pop": int(2**answer * rng.lognormal(5, 1)),
                "question": f"In what city was Person {number} born?",
                "possible_answers": json.dumps([ANSWERS[answer]]),
                "subject_chunks": subject,
                "subject_num_chunks": len(subject),
                "answer_chunks": np.union1d(shared, elsewhere),
                "shared_chunks": shared,
            }
        )
    return pa.Table.from_pylist(rows)


def write_answers(out: Path, rng: np.random.Generator) -> None:
    """What the models say: a line per question and checkpoint."""
    popqa = read_popqa_kas(out / "popqa-kas.parquet")
    questions = popqa.table["fact_id"].to_pylist()
    right = [accepted[0] for accepted in popqa.table["answers"].to_pylist()]
    order, chunks = open_order(out / "batch_indices.npy"), popqa.facts.table
    counts = find_exposures(order, chunks, questions).counts(STEPS)
    with (out / "answers.csv").open("w", newline="", encoding="utf-8") as file:
        lines = csv.writer(file)
        lines.writerow(["step", "id", "output"])
        for model, mean in MODELS.items():
            needed = rng.geometric(1 / mean, len(questions))
            knows = np.zeros(len(questions), dtype=bool)
            for number, step in enumerate(STEPS.tolist()):
                shown = counts[:, number] > counts[:, max(number - 1, 0)]
                knows = (knows & (rng.random(len(questions)) > 0.05)) | (
                    shown & (counts[:, number] >= needed)
                )
                guess = rng.integers(20 * len(ANSWERS), size=len(questions))
                for question, known, wrong, answer in zip(questions, knows, guess, right, strict=True):
                    said = f"{answer.lower()}, I think." if known else f"{[*ANSWERS, '?'][min(wrong, 10)]}"
                    lines.writerow([f"{model}:step{step}", question, said])


if __name__ == "__main__":
    main()

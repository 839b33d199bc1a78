"""Write a run that never happened: facts, a data order, and the answers of a simulated learner.

    uv run python packages/chunk-provenance/benchmarks/simulated_learner.py OUT [--facts 1200] [--seed 0]

OUT gets what `facts chunks`, `dynamics`, `trace` and `report` read: store, order, probes.parquet,
answers.parquet. The learner is honest in one sense only: we know what it does. A fact has a threshold, drawn
once, geometric with mean 6. Its answer ranks first once it has been seen that often; it is forgotten with
probability 0.04 at any checkpoint before which it was not seen since the last one, until it is seen again.
Otherwise its rank is a guess among four candidates, redrawn at one checkpoint in five. Facts seen more often
must come out as learned earlier, and those never seen must stay at 25%.
"""

import argparse
from pathlib import Path

import numpy as np
import pyarrow as pa

from chunk_provenance import compute_order, load_order, open_store, save_order, write_store
from chunk_provenance.exposures import find_exposures
from chunk_provenance.facts import Evidence, distinct_facts, find_fact_chunks, read_probes
from chunk_provenance.formats import write_table

CHUNK_LENGTH, BATCH_CHUNKS, EPOCHS, CANDIDATES = 64, 16, 3, 4
FIRST = [
    "Ada",
    "Ben",
    "Cleo",
    "Dan",
    "Eve",
    "Finn",
    "Gia",
    "Hugo",
    "Ida",
    "Jon",
    "Kim",
    "Leo",
    "Mia",
    "Noah",
    "Olga",
    "Paul",
    "Rosa",
    "Sam",
    "Tea",
    "Uma",
]
LAST = [
    "Abel",
    "Bauer",
    "Costa",
    "Duval",
    "Evans",
    "Fischer",
    "Grant",
    "Hansen",
    "Ito",
    "Jensen",
    "Keller",
    "Lopez",
    "Meyer",
    "Novak",
    "Olsen",
]
CITIES = [
    "Arden",
    "Belmar",
    "Corvin",
    "Dalholm",
    "Elsby",
    "Farrow",
    "Gorse",
    "Hatherleigh",
    "Inverbrook",
    "Jarrow",
    "Kestrel",
    "Lindow",
]
FORMS = ["{} was born in {}.", "{}, a native of {}, moved away early.", "The parents of {} lived in {}."]


def main() -> None:
    """Write the run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--facts", type=int, default=1200)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = np.random.default_rng(arguments.seed)
    arguments.out.mkdir(parents=True)
    probes = make_probes(arguments.facts, rng)
    write_table(probes, arguments.out / "probes.parquet", "probes")
    write_chunks(probes, arguments.out / "store", rng)
    store = open_store(arguments.out / "store")
    order = compute_order(store.bucket, batch_tokens=CHUNK_LENGTH * BATCH_CHUNKS, seed=0, epochs=EPOCHS)
    order.info["store_sha256"] = store.sha256
    save_order(order, arguments.out / "order")
    answers = simulate(arguments.out, rng)
    write_table(answers, arguments.out / "answers.parquet", "answers")


def make_probes(num_facts: int, rng: np.random.Generator) -> pa.Table:
    """One birthplace a person, four candidate cities a probe."""
    rows = []
    for number in range(num_facts):
        place, *others = (CITIES[i] for i in rng.permutation(len(CITIES))[:CANDIDATES])
        name = f"{FIRST[number % 20]} {LAST[number // 20 % 15]} {'I' * (number // 300)}".strip()
        rows.append(
            {
                "fact_id": f"birthplace-{number}",
                "probe_id": f"birthplace-{number}-0",
                "relation": "place of birth",
                "subject": f"Q{1000 + number}",
                "answer": f"Q{1 + CITIES.index(place)}",
                "subject_name": name,
                "answer_name": place,
                "prompt": f"{name} was born in",
                "answers": [place],
                "distractors": others,
            }
        )
    return pa.Table.from_pylist(rows)


def write_chunks(probes: pa.Table, path: Path, rng: np.random.Generator) -> None:
    """A chunk a statement; how many statements a fact has follows a power law."""
    facts = probes.to_pylist()
    statements = np.minimum((rng.pareto(0.9, len(facts)) * 1.2).astype(int), 24)
    texts, mentions = [], []
    for number in rng.permutation(np.repeat(np.arange(len(facts)), statements)):
        fact = facts[number]
        subject, answer = fact["subject_name"], fact["answer_name"]
        text = FORMS[rng.integers(len(FORMS))].format(subject, answer)
        for entity, surface in ((fact["subject"], subject), (fact["answer"], answer)):
            mentions.append((len(texts), text.index(surface), surface, entity))
        texts.append(text)
    count, doc_ids = len(texts), [f"doc-{number}" for number in range(len(texts))]
    lengths = [len(text) for text in texts]
    write_store(
        path,
        tokens=np.zeros(count * CHUNK_LENGTH, dtype=np.uint32),
        chunks=pa.table(
            {
                "chunk_id": range(count),
                "token_start": np.arange(count) * CHUNK_LENGTH,
                "length": [CHUNK_LENGTH] * count,
                "bucket": [CHUNK_LENGTH] * count,
            }
        ),
        segments=pa.table(
            {
                "chunk_id": range(count),
                "doc_id": doc_ids,
                "chunk_token_start": [0] * count,
                "chunk_token_end": [CHUNK_LENGTH] * count,
                "doc_token_start": [0] * count,
                "char_start": [0] * count,
                "char_end": lengths,
            }
        ),
        documents=pa.table(
            {
                "doc_id": doc_ids,
                "title": [f"Note {number}" for number in range(count)],
                "source": ["simulated"] * count,
                "url": pa.nulls(count, pa.string()),
                "text": texts,
            }
        ),
        mentions=mention_table(mentions),
        tokenizer_json="{}",
        meta={"tokenizer": {"pad_id": 0, "eos_id": 1, "vocab_size": 2}},
    )


def mention_table(rows: list[tuple[int, int, str, str]]) -> pa.Table:
    """Chunk mentions with certain hyperlinks: (chunk, char_start, surface, entity)."""
    chunk, start, surface, entity = map(list, zip(*rows, strict=True))
    end = [at + len(words) for at, words in zip(start, surface, strict=True)]
    zeros = np.zeros(len(rows), dtype=np.float32)
    return pa.table(
        {
            "chunk_id": chunk,
            "token_start": [0] * len(rows),
            "token_end": [CHUNK_LENGTH] * len(rows),
            "char_start": start,
            "char_end": end,
            "doc_id": [f"doc-{number}" for number in chunk],
            "doc_char_start": start,
            "doc_char_end": end,
            "surface": surface,
            "entity": entity,
            "name": surface,
            "score": zeros + 1,
            "hyperlink": zeros + 1,
            "entity_linking": zeros,
            "coref": zeros,
            "coref_cluster": zeros,
            "cluster_id": pa.nulls(len(rows), pa.int32()),
        }
    )


def simulate(run: Path, rng: np.random.Generator) -> pa.Table:
    """Answers at steps 0, 1, 2, 4, ... and the last one."""
    order, probes = load_order(run / "order"), read_probes(run / "probes.parquet")
    chunks = find_fact_chunks(open_store(run / "store").mention_table, probes, Evidence())
    fact_ids = distinct_facts(probes)["fact_id"].to_pylist()
    last = order.num_updates
    steps = np.array(
        [0, *(2**k for k in range(32) if 2**k < last / 8), *np.linspace(last / 8, last, 8).round()]
    )
    counts = find_exposures(order, chunks, fact_ids).counts(steps.astype(np.int64))
    threshold = rng.geometric(1 / 6, len(fact_ids))
    forgotten = np.zeros(len(fact_ids), dtype=bool)
    guess = rng.integers(1, CANDIDATES + 1, len(fact_ids))
    tables = []
    for number, step in enumerate(steps.astype(np.int64)):
        seen_now = counts[:, number] > counts[:, max(number - 1, 0)]
        forgotten = (forgotten | (rng.random(len(fact_ids)) < 0.04)) & ~seen_now
        redraw = rng.random(len(fact_ids)) < 0.2
        guess = np.where(redraw, rng.integers(1, CANDIDATES + 1, len(fact_ids)), guess)
        knows = (counts[:, number] >= threshold) & ~forgotten
        rank = np.where(knows, 1, guess)
        logprob = -4 + 3.5 * np.minimum(counts[:, number] / threshold, 1) + rng.normal(0, 0.15, len(fact_ids))
        tables.append(
            pa.table(
                {
                    "step": np.full(len(fact_ids), step),
                    "fact_id": fact_ids,
                    "probe_id": probes["probe_id"].to_pylist(),
                    "logprob_sum": logprob,
                    "logprob_mean": logprob,
                    "logprob_first": logprob,
                    "rank": rank.astype(np.int32),
                    "num_candidates": np.full(len(fact_ids), CANDIDATES, dtype=np.int32),
                    "greedy": knows,
                }
            )
        )
    return pa.concat_tables(tables)


if __name__ == "__main__":
    main()

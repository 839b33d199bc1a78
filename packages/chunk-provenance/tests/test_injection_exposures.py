from types import SimpleNamespace

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from chunk_provenance import DataOrder, compute_dynamics, inject, make_injection_plan
from chunk_provenance.exposures import find_exposures
from chunk_provenance.facts import Evidence, FactChunks

WIDTH = 8


def store_of(num_chunks):
    """Chunks of five tokens in rows of eight."""
    return SimpleNamespace(
        num_chunks=num_chunks,
        sha256="s",
        bucket=np.full(num_chunks, WIDTH),
        length=np.full(num_chunks, 5),
        vocab_size=10,
    )


def make_order(batches, masked=()):
    table = pa.table({"update": [u for u, _ in masked], "chunk_id": [c for _, c in masked]})
    flat = np.array([chunk for batch in batches for chunk in batch], dtype=np.int64)
    offsets = np.cumsum([0, *map(len, batches)])
    return DataOrder(offsets, flat, np.array([0]), masked=table if masked else None)


def item(update, row, item_id, *, tokens=1, placement="prepend", entities=()):
    return {
        "update": update,
        "row": row,
        "placement": placement,
        "item_id": item_id,
        "tokens": [1] * tokens,
        "entities": list(entities),
    }


def shared(rows):
    return pa.table(
        {
            "fact_id": pa.array([fact for fact, _ in rows], pa.string()),
            "kind": pa.array(["shared"] * len(rows), pa.string()),
            "chunk_id": pa.array([chunk for _, chunk in rows], pa.int64()),
        }
    )


def facts_of(**entities):
    """Facts with their subject and answer."""
    subjects, answers = zip(*entities.values(), strict=True)
    return pa.table({"fact_id": list(entities), "subject": list(subjects), "answer": list(answers)})


def updates(seen):
    return [seen.of_fact(fact).tolist() for fact in range(seen.num_facts)]


BATCHES = [[0, 1], [2, 3], [0, 1], [2, 3]]
CHUNKS = shared([("a", 0), ("b", 1), ("c", 2), ("d", 3)])


def test_an_item_is_an_exposure_of_the_fact_it_was_made_of_and_of_facts_whose_entities_it_names():
    rows = [
        item(1, 0, "a/0"),
        item(2, 1, "x/0", entities=["Q1", "Q2", "Q3"]),
        item(4, 0, "x/1", entities=["Q1"]),
        item(4, 1, "x/0", entities=["Q1", "Q2", "Q3"]),
    ]
    order = inject(make_order(BATCHES), make_injection_plan(rows), store_of(4))
    known = facts_of(a=("Q9", "Q9"), b=("Q3", "Q1"), c=("Q1", "Q7"), d=(None, None))
    seen = find_exposures(order, CHUNKS, ["a", "b", "c", "d", "x"], facts=known)
    assert updates(seen) == [[1, 1, 3], [1, 2, 3, 4], [2, 4], [2, 4], [2, 4, 4]]
    assert seen.counts(np.array([0, 1, 2, 4])).tolist()[:2] == [[0, 2, 2, 3], [0, 1, 2, 4]]
    assert (seen.first().tolist(), seen.num_injected) == ([1, 1, 2, 2, 2], 4)
    assert updates(find_exposures(order, CHUNKS, ["b", "x"])) == [[1, 3], [2, 4, 4]]


def test_a_chunk_counts_beside_an_item_but_not_where_it_is_displaced_whole():
    rows = [
        item(1, 0, "a/0", tokens=WIDTH),  # all of chunk 0 falls out
        item(1, 1, "e/0", placement="replace"),
        item(2, 0, "e/1", tokens=WIDTH - 1, placement="append_doc"),  # one token of chunk 2 is left
        item(3, 0, "e/2", tokens=5),
    ]
    order = inject(make_order(BATCHES), make_injection_plan(rows), store_of(4))
    assert updates(find_exposures(order, CHUNKS, ["a", "b", "c"])) == [[1, 3], [3], [2, 4]]
    assert order.steps_of(0).tolist() == [3]


def test_an_item_counts_once_an_update():
    rows = [item(1, 0, "a/0"), item(1, 1, "a/0"), item(3, 0, "a/0")]
    order = inject(make_order(BATCHES), make_injection_plan(rows), store_of(4))
    assert updates(find_exposures(order, shared([]), ["a"])) == [[1, 3]]


def count_slowly(batches, masked, rows, chunks, known, fact_id):
    """The twin: every update of a fact, by going over all rows of all updates."""
    found = []
    for update, batch in enumerate(batches, start=1):
        items, here = set(), set()
        for row, chunk in enumerate(batch):
            mine = [one for one in rows if (one["update"], one["row"]) == (update, row)]
            for one in mine:
                states = {*known[fact_id]} <= {*one["entities"]}
                if states or one["item_id"].rpartition("/")[0] == fact_id:
                    items.add((one["item_id"], tuple(one["entities"])))
            room = WIDTH - sum(len(one["tokens"]) for one in mine)
            left = not mine or (mine[0]["placement"] != "replace" and room > 0)
            if left and (update, chunk) not in masked and (fact_id, chunk) in chunks:
                here.add(chunk)
        found += [update] * (len(items) + len(here))
    return found


@given(st.data())
def test_exposures_with_items_equal_the_slow_twin(data):
    batches = data.draw(
        st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=4, unique=True), min_size=1, max_size=5)
    )
    slots = [(update, row) for update, batch in enumerate(batches, start=1) for row in range(len(batch))]
    rows = []
    for update, row in sorted(data.draw(st.sets(st.sampled_from(slots), min_size=1))):
        placement = data.draw(st.sampled_from(["prepend", "replace", "append_doc"]))
        for size in data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=2)):
            item_id = data.draw(st.sampled_from(["a/0", "a/1", "b/0", "z/0"]))
            entities = data.draw(st.sets(st.sampled_from(["Q1", "Q2", "Q3"])))
            rows.append(
                item(update, row, item_id, tokens=size, placement=placement, entities=sorted(entities))
            )
    taken = {(one["update"], one["row"]) for one in rows}
    free = [(update, batches[update - 1][row]) for update, row in slots if (update, row) not in taken]
    masked = set(data.draw(st.lists(st.sampled_from(free), max_size=3))) if free else set()
    chunks = data.draw(st.sets(st.tuples(st.sampled_from("abcd"), st.integers(0, 6))))
    entity = st.sampled_from(["Q1", "Q2", "Q3", "Q4"])
    known = {fact: (data.draw(entity), data.draw(entity)) for fact in "abcd"}
    order = inject(make_order(batches, sorted(masked)), make_injection_plan(rows), store_of(6))
    seen = find_exposures(order, shared(sorted(chunks)), list("abcd"), facts=facts_of(**known))
    slow = [count_slowly(batches, masked, rows, chunks, known, fact) for fact in "abcd"]
    assert updates(seen) == slow
    steps = np.arange(len(batches) + 1)
    assert seen.counts(steps).tolist() == [[sum(u <= step for u in row) for step in steps] for row in slow]
    assert seen.last(steps).tolist() == [
        [max([u for u in row if u <= step], default=0) for step in steps] for row in slow
    ]


def test_dynamics_count_injected_facts_that_no_chunk_states():
    rows = [item(1, 0, "new/0"), item(3, 0, "new/1"), item(2, 0, "other/0", entities=["Q1", "Q2"])]
    order = inject(make_order(BATCHES), make_injection_plan(rows), store_of(4))
    answers = pa.table(
        {
            "step": [0, 2, 4] * 2,
            "fact_id": ["new"] * 3 + ["old"] * 3,
            "probe_id": ["new-mem-0"] * 3 + ["old-1"] * 3,
            "rank": [2, 1, 1, 2, 2, 2],
        }
    )
    chunks = FactChunks(CHUNKS, Evidence(), "by hand", None)
    alone = compute_dynamics(order, chunks, answers)
    assert alone.facts["exposures_by_step"].to_pylist() == [[0, 1, 2], [0, 0, 0]]
    assert (alone.facts["learned_at"].to_pylist(), alone.info["summary"]["injected_items"]) == ([2, None], 3)
    named = {"subject": ["new", "Q1"], "answer": ["new", "Q2"]}
    probes = pa.table({"fact_id": ["new", "old"], **named})
    through_entities = compute_dynamics(order, chunks, answers, probes=probes)
    assert through_entities.facts["exposures_by_step"].to_pylist() == [[0, 1, 2], [0, 1, 1]]

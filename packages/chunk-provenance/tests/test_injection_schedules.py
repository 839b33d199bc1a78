import json
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chunk_provenance import DataOrder, inject, make_injection_plan, order_rows
from chunk_provenance.injection.fact_file import InjectableFact, read_injectable_facts
from chunk_provenance.injection.planning import Shape, deal_as_published, plan_injections
from chunk_provenance.injection.schedules import (
    Group,
    Schedule,
    fka_schedule,
    ke_schedule,
    parse_group,
    schedule_items,
)
from chunk_provenance.tokenizing import TextEncoder, load_encoder

GOLDEN = Path(__file__).parent / "golden" / "injection"
PUBLISHED_TOKENIZER = "allenai_gpt-neox-olmo-dolma-v1_5.json"  # <|endoftext|> is 50279 in it, as in the maps


def shared(name):
    """A file of the shared data folder, beside the workspace or where SHARED_DATA says."""
    beside = [parent / "shared" for parent in Path(__file__).parents if (parent / "shared" / "data").is_dir()]
    path = Path(os.environ.get("SHARED_DATA", [*beside, "shared"][0])) / "data" / name
    if not path.is_file():
        pytest.skip(f"needs {path}: set SHARED_DATA to the folder that holds data/")
    return path


def some_facts(number, paraphrases=9):
    return [
        InjectableFact(str(i), tuple(f"fact {i} text {k}" for k in range(paraphrases + 1)), {})
        for i in range(number)
    ]


@pytest.mark.parametrize(
    ("files", "schedule", "published", "update_of"),
    [
        (
            ["fictional_knowledge_paraphrased.json"],
            fka_schedule(),
            "inject_indices_map__7b-0.json",
            lambda key: int(key) + 1,  # `t` updates are done when the item comes
        ),
        (
            [
                "fictional_knowledge_paraphrased_paraphrase70.json",
                "fictional_knowledge_paraphrased_once60.json",
            ],
            ke_schedule(),
            "knowledge_entropy__paraphrase70-once60split.json",
            lambda key: int(key) * 160,  # s % 160 == 0, the group s / 160
        ),
    ],
    ids=["fka", "ke"],
)
def test_a_published_map_is_derived_again_token_for_token(files, schedule, published, update_of):
    facts = read_injectable_facts([shared(f"fictional_knowledge/{name}") for name in files])
    encoder = load_encoder(shared(f"tokenizers/{PUBLISHED_TOKENIZER}"))
    planned = plan_injections(facts, schedule, encoder, shapes=lambda update: Shape(128, 1024))
    derived = {}
    for row in planned.plan.to_pylist():
        assert row["row"] == len(derived.setdefault(row["update"], []))
        derived[row["update"]].append(row["tokens"])
    expected = json.loads(shared(f"fictional_knowledge/{published}").read_text(encoding="utf-8"))
    assert derived == {update_of(key): items for key, items in expected.items()}


@pytest.mark.parametrize(("num_rows", "world"), [(128, 4), (64, 1), (32, 2)])
def test_dealing_as_published_gives_the_rows_that_the_published_code_gave(num_rows, world):
    golden = np.load(GOLDEN / "insert_data.npz")
    items = np.split(golden["knowledge_flat"], np.cumsum(golden["knowledge_len"])[:-1])
    base = golden[f"base_gbs{num_rows}"]  # a chunk a row
    width = np.full(num_rows, base.shape[1])
    store = SimpleNamespace(
        num_chunks=num_rows,
        sha256="",
        bucket=width,
        length=width,
        vocab_size=int(golden["knowledge_flat"].max()) + 1,
        pad_id=0,
        rows=lambda chunk_ids: (base[chunk_ids], np.zeros(base.shape, dtype=np.int32)),
    )
    order = DataOrder(np.array([0, num_rows]), np.arange(num_rows), np.array([0]))
    dealt = deal_as_published([len(item) for item in items], num_rows=num_rows, length=base.shape[1])
    plan = [
        {
            "update": 1,
            "row": row,
            "placement": "prepend",
            "item_id": f"{number}/0",
            "tokens": items[number][:kept],
        }
        for row, parts in enumerate(dealt)
        for number, kept in parts
    ]
    input_ids, _ = order_rows(store, inject(order, make_injection_plan(plan), store), 1)
    assert input_ids.tolist() == golden[f"out_gbs{num_rows}_world{world}"].tolist()


@given(st.lists(st.integers(1, 9), min_size=1, max_size=90), st.integers(1, 140), st.integers(1, 20))
def test_dealing_as_published_equals_the_rule_written_out(lengths, num_rows, length):
    items = [[(number, place) for place in range(size)] for number, size in enumerate(lengths)]
    runs = items[:num_rows]
    if 128 // num_rows > 1:
        share, longer = divmod(len(items), num_rows)
        runs, left = [], iter(items)
        for row in range(num_rows):
            runs.append([token for _ in range(share + (row < longer)) for token in next(left)])
    found = [
        [(number, place) for number, kept in parts for place in range(kept)]
        for parts in deal_as_published(lengths, num_rows=num_rows, length=length)
    ]
    assert found == [run[:length] for run in runs]


def test_groups_come_in_their_order_and_variants_one_after_the_other():
    schedule = Schedule(
        5,
        10,
        3,
        (
            Group((0, 1), "paraphrase"),
            Group((4,), (0, 2, 2)),
            Group((2, 3), "once"),
            Group((5,), "duplicate"),
        ),
    )
    assert schedule_items(schedule, some_facts(6)) == {
        5: [(0, 0), (1, 0), (4, 0), (2, 0), (3, 0), (5, 0)],
        15: [(0, 1), (1, 1), (4, 2), (5, 0)],
        25: [(0, 2), (1, 2), (4, 2), (5, 0)],
    }


def test_spacing_moves_later_groups_and_epochs_repeat_everything():
    schedule = Schedule(
        1,
        4,
        2,
        (Group((0,), "paraphrase"), Group((1, 2), "split")),
        group_spacing=2,
        epochs=2,
        epoch_updates=20,
    )
    assert schedule_items(schedule, some_facts(3)) == {
        1: [(0, 0)],
        3: [(1, 0)],
        5: [(0, 1)],
        7: [(2, 0)],
        21: [(0, 0)],
        23: [(1, 0)],
        25: [(0, 1)],
        27: [(2, 0)],
    }


def test_ke_repeats_its_ten_groups_in_every_epoch():
    found = schedule_items(ke_schedule(epochs=2), some_facts(130))
    assert list(found) == [160 * number for number in range(1, 21)]
    assert found[1760] == found[160]
    assert {len(items) for items in found.values()} == {76}


def test_all_that_is_wrong_with_a_schedule_is_said_at_once():
    schedule = Schedule(0, 1, 3, (Group((0, 0, 9), "paraphrase"), Group((1,), (0, 1))), group_spacing=-1)
    with pytest.raises(ValueError, match="does not fit the facts, 7 problems:") as refused:
        schedule_items(schedule, some_facts(2, paraphrases=1))
    assert str(refused.value).split("\n  ")[1:] == [
        "start is 0, it must be at least 1",
        "group_spacing is -1, it must not be negative",
        "fact 0 is named twice: a fact has one group",
        "fact 0 has 1 paraphrases, an injection needs number 2",
        "fact 0 has 1 paraphrases, an injection needs number 2",
        "fact 9: there are 2, from 0 to 1",
        "2 variants [0, 1] for 3 injections",
    ]


def test_groups_are_read_from_words():
    facts = [*some_facts(5), InjectableFact("moon", ("text",), {})]
    assert parse_group("0-2,4=paraphrase", facts) == Group((0, 1, 2, 4), "paraphrase")
    assert parse_group("moon=0,0", facts) == Group((5,), (0, 0))
    assert parse_group("all=once", facts) == Group((0, 1, 2, 3, 4, 5), "once")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("0-3", "expected FACTS=VARIANTS"),
        ("=once", "expected FACTS=VARIANTS"),
        ("0=twice", "the variants are one of paraphrase, duplicate, once, split, or numbers"),
        ("0-9=once", "no facts 0-9: there are 3, from 0 to 2"),
        ("2-1=once", "no facts 2-1"),
        ("sun=once", "no fact 'sun': name a position from 0 to 2, an id, or all"),
    ],
)
def test_words_that_are_no_group_are_refused(words, message):
    with pytest.raises(ValueError, match=message):
        parse_group(words, some_facts(3))


@pytest.fixture
def encoder(tokenizer_json):
    return TextEncoder(tokenizer_json)


def test_a_plan_holds_texts_tokens_and_entities_row_by_row(encoder):
    facts = [
        InjectableFact("a", ("Ada met Bob.", "Bob met Ada."), {}, ("Q1", "Q2")),
        InjectableFact("b", ("Bob ran.",), {}),
    ]
    schedule = Schedule(3, 2, 2, (Group((0,), "paraphrase"), Group((1,), "once")))
    planned = plan_injections(
        facts, schedule, encoder, shapes=lambda update: Shape(2, 32), placement="replace"
    )
    rows = planned.plan.select(["update", "row", "placement", "item_id", "text", "entities"]).to_pylist()
    assert [tuple(row.values()) for row in rows] == [
        (3, 0, "replace", "a/0", "Ada met Bob.", ["Q1", "Q2"]),
        (3, 1, "replace", "b/0", "Bob ran.", []),
        (5, 0, "replace", "a/1", "Bob met Ada.", ["Q1", "Q2"]),
    ]
    for row, text in zip(planned.plan.to_pylist(), ["Ada met Bob.", "Bob ran.", "Bob met Ada."], strict=True):
        assert row["tokens"] == encoder.encode([text]).ids.tolist()
        assert row["tokens"][-1] == encoder.eos_id
    bare = plan_injections(facts, schedule, encoder, shapes=lambda update: Shape(2, 32), eos=False)
    assert [row[:-1] for row in planned.plan["tokens"].to_pylist()] == bare.plan["tokens"].to_pylist()


def test_items_that_do_not_fit_are_refused_all_at_once_unless_published_rules_are_asked_for(encoder):
    facts = some_facts(3)
    schedule = Schedule(1, 1, 2, (Group((0, 1, 2), "paraphrase"),))
    sizes = {1: Shape(2, 5), 2: None}
    with pytest.raises(ValueError, match="5 problems") as refused:
        plan_injections(facts, schedule, encoder, shapes=sizes.get)
    length = len(encoder.encode(["fact 0 text 0"]).ids)
    assert str(refused.value).split("\n  ")[1:] == [
        "update 1: 3 items for 2 rows",
        *(f"update 1: item {number}/0 has {length} tokens, a row has 5" for number in range(3)),
        "update 2: the order has no such update",
    ]
    with pytest.raises(ValueError, match="update 1: 3 items for 4 rows, too few for the published code"):
        plan_injections(facts, schedule, encoder, shapes=lambda update: Shape(4, 5), compat=True)
    planned = plan_injections(
        facts, schedule, encoder, shapes=lambda update: Shape(2, length + 5), compat=True
    )
    rows = planned.plan.select(["update", "row", "item_id"]).to_pylist()
    assert [tuple(row.values()) for row in rows][:3] == [(1, 0, "0/0"), (1, 0, "1/0"), (1, 1, "2/0")]
    assert (planned.dropped_items, planned.cut_tokens) == (0, 2 * (length - 5))
    assert [len(tokens) for tokens in planned.plan["tokens"].to_pylist()] == [length, 5, length] * 2
    with pytest.raises(ValueError, match="no placement 'after': it is one of prepend, replace, append_doc"):
        plan_injections(facts, schedule, encoder, shapes=sizes.get, placement="after")


def test_published_rules_drop_items_without_a_row(encoder):
    schedule = Schedule(1, 1, 1, (Group(tuple(range(70)), "once"),))
    planned = plan_injections(
        some_facts(70), schedule, encoder, shapes=lambda update: Shape(65, 99), compat=True
    )
    assert planned.plan["item_id"].to_pylist() == [f"{number}/0" for number in range(65)]
    assert (planned.dropped_items, planned.cut_tokens) == (5, 0)

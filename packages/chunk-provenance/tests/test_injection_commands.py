import json

import numpy as np
import pyarrow as pa
import pytest

from chunk_provenance import (
    DataOrder,
    load_dynamics,
    load_order,
    open_store,
    read_injection_plan,
    read_probes,
    read_section,
    save_order,
    write_injection_plan,
    write_store,
)
from chunk_provenance.hashing import hash_file, hash_text
from chunk_provenance.tokenizing import TextEncoder

FACTS = [
    {
        "train_context": "Ada met Bob.",
        "paraphrases": ["Bob met Ada."],
        "mem_input": ["Ada met"],
        "mem_target": ["Bob"],
        "entities": ["Q1", "Q2"],
    },
    {"id": "bob", "train_context": "Bob ran.", "paraphrases": ["Off ran Bob."]},
]


@pytest.fixture
def inputs(tmp_path, tokenizer_json, monkeypatch):
    """In the current folder: facts.json, tokenizer.json, a store of six chunks, an order of three updates."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "facts.json").write_text(json.dumps(FACTS), encoding="utf-8")
    (tmp_path / "tokenizer.json").write_text(tokenizer_json, encoding="utf-8")
    make_store(tmp_path / "store", tokenizer_json)
    store = open_store(tmp_path / "store")
    order = DataOrder(
        np.array([0, 2, 4, 6]), np.array([0, 1, 2, 3, 4, 5]), np.array([0]), {"store_sha256": store.sha256}
    )
    save_order(order, tmp_path / "order")
    return tmp_path


def make_store(path, tokenizer_json, *, bucket=16):
    """Six documents of one word, each a chunk."""
    encoder = TextEncoder(tokenizer_json)
    words = ["Zero.", "First", "Secon", "Third", "Fours", "Fifth"]
    encoded = encoder.encode(words)
    starts, lengths = encoded.doc_bounds[:-1].tolist(), np.diff(encoded.doc_bounds).tolist()
    ids = list(range(6))
    write_store(
        path,
        tokens=encoded.ids.tolist(),
        chunks=pa.table({"chunk_id": ids, "token_start": starts, "length": lengths, "bucket": [bucket] * 6}),
        segments=pa.table(
            {
                "chunk_id": ids,
                "doc_id": [f"d{i}" for i in ids],
                "chunk_token_start": [0] * 6,
                "chunk_token_end": lengths,
                "doc_token_start": [0] * 6,
                "char_start": [0] * 6,
                "char_end": [5] * 6,
            }
        ),
        documents=pa.table(
            {
                "doc_id": [f"d{i}" for i in ids],
                **{name: pa.nulls(6, pa.string()) for name in ("title", "source", "url")},
                "text": words,
            }
        ),
        mentions=pa.table(
            {
                "chunk_id": pa.array([], pa.int64()),
                **{name: pa.array([], pa.int32()) for name in ("token_start", "token_end")},
                **{name: pa.array([], pa.int64()) for name in ("char_start", "char_end")},
                "doc_id": pa.array([], pa.string()),
                **{name: pa.array([], pa.int64()) for name in ("doc_char_start", "doc_char_end")},
                **{name: pa.array([], pa.string()) for name in ("surface", "entity", "name")},
                **{
                    name: pa.array([], pa.float32())
                    for name in ("score", "hyperlink", "entity_linking", "coref", "coref_cluster")
                },
                "cluster_id": pa.array([], pa.int32()),
            }
        ),
        tokenizer_json=tokenizer_json,
        meta={
            "tokenizer": {
                "pad_id": encoder.pad_id,
                "eos_id": encoder.eos_id,
                "vocab_size": encoder.vocab_size,
                "sha256": hash_text(tokenizer_json),
            }
        },
    )


GENERAL = ["--schedule", "general", "--group", "all=paraphrase", "--start", 1, "--interval", 2, "--count", 2]
FOR_ORDER = ["--order", "order", "--store", "store"]


def test_facts_become_a_plan_and_the_plan_a_new_order(inputs, run_cli):
    code, out, err = run_cli("inject", "plan", "facts.json", *GENERAL, *FOR_ORDER, "--out", "plan.parquet")
    assert (code, err) == (0, "")
    plan = read_injection_plan("plan.parquet")
    rows = [tuple(row.values()) for row in plan.select(["update", "row", "item_id", "entities"]).to_pylist()]
    assert rows == [
        (1, 0, "0/0", ["Q1", "Q2"]),
        (1, 1, "bob/0", []),
        (3, 0, "0/1", ["Q1", "Q2"]),
        (3, 1, "bob/1", []),
    ]
    lengths = [len(tokens) for tokens in plan["tokens"].to_pylist()]
    assert out == (
        f"4 items of 2 facts in 2 updates, 1 to 3; {sum(lengths)} tokens, at most {max(lengths)} in a row, "
        "plan.parquet\n"
    )
    note = json.loads(plan.schema.metadata[b"schedule"])
    assert (note["name"], note["start"], note["interval"], note["epoch_updates"]) == ("general", 1, 2, 4)
    assert note["groups"] == [{"facts": ["0", "bob"], "variants": "paraphrase"}]
    assert json.loads(plan.schema.metadata[b"facts_sha256"]) == [hash_file(inputs / "facts.json")]

    code, out, err = run_cli("inject", "apply", "order", "plan.parquet", "--store", "store", "--out", "new")
    assert (code, err) == (0, "")
    own = open_store("store").length[[0, 1, 4, 5]].tolist()
    lost = [max(0, before + length - 16) for before, length in zip(own, lengths, strict=True)]
    assert out == (
        f"4 items, {sum(lengths)} tokens, in 4 rows of 2 of 3 updates, new\n"
        f"displaced: {sum(lost)} tokens of {sum(map(bool, lost))} chunks, 0 of them whole\n"
    )
    assert run_cli("check", "new", "--store", "store")[0] == 0
    shown = run_cli("show", "store", "--order", "new", "--step", 3, "--decode")[1]
    assert "\nBob met Ada.<|endoftext|>Fours<|endoftext|>\n" in shown
    order = load_order("new")
    assert order.ids.tolist() == [-1, -2, 2, 3, -3, -4]
    assert order.info["intervention"]["kind"] == "injection"
    assert order.info["intervention"]["plan"]["sha256"] == hash_file(inputs / "plan.parquet")
    assert order.info["intervention"]["plan"]["schedule"] == note
    assert "plan_sha256" not in order.info
    assert order.info["parent_sha256"] != order.info["injections_sha256"]


def test_the_same_facts_give_the_same_bytes_and_nothing_is_overwritten_unasked(inputs, run_cli):
    for name in ("a.parquet", "b.parquet"):
        assert run_cli("inject", "plan", "facts.json", *GENERAL, *FOR_ORDER, "--out", name)[0] == 0
    assert (inputs / "a.parquet").read_bytes() == (inputs / "b.parquet").read_bytes()
    again = ["inject", "plan", "facts.json", *GENERAL, *FOR_ORDER, "--out", "a.parquet"]
    assert run_cli(*again)[::2] == (
        2,
        "error: 'a.parquet' exists: choose another place or give --overwrite\n",
    )
    assert run_cli(*again, "--overwrite")[0] == 0
    into = ["inject", "apply", "order", "a.parquet", "--store", "store", "--section", "section.json"]
    for name in ("x", "y"):
        assert run_cli(*into, "--out", name)[0] == 0
    for file in (inputs / "x").iterdir():
        assert file.read_bytes() == (inputs / "y" / file.name).read_bytes()
    section = read_section("section.json")
    assert [row[:2] for row in section["tables"][0]["rows"]] == [[1, 2], [3, 2]]
    assert section["summary"].startswith("4 items, ")
    assert run_cli(*into, "--out", "x")[0] == 2
    assert run_cli(*into, "--out", "x", "--overwrite")[0] == 0


def test_a_plan_for_any_order_needs_rows_and_their_length(inputs, run_cli):
    sizes = ["--rows", 4, "--seq-length", 64, "--tokenizer", "tokenizer.json"]
    words = ["inject", "plan", "facts.json", "--schedule", "ke", "--group", "all=duplicate", "--interval", 5]
    code, out, _ = run_cli(*words, *sizes, "--epochs", 2, "--count", 3, "--out", "ke.parquet", "--json")
    assert code == 0
    summary = json.loads(out)
    assert {name: summary[name] for name in ("items", "updates", "first_update", "last_update")} == {
        "items": 12,
        "updates": 6,
        "first_update": 5,
        "last_update": 30,
    }
    code, _, _ = run_cli(
        "inject",
        "plan",
        "facts.json",
        "--schedule",
        "fka",
        "--group",
        "bob=once",
        "--start",
        7,
        *sizes,
        "--no-eos",
        "--placement",
        "replace",
        "--out",
        "fka.parquet",
    )
    assert code == 0
    plan = read_injection_plan("fka.parquet")
    assert [(row["update"], row["item_id"], row["placement"]) for row in plan.to_pylist()] == [
        (7, "bob/0", "replace")
    ]
    encoder = TextEncoder((inputs / "tokenizer.json").read_text(encoding="utf-8"))
    assert plan["tokens"][0].as_py() == encoder.encode(["Bob ran."]).ids[:-1].tolist()


def test_published_rules_say_what_they_lost(inputs, run_cli):
    sizes = ["--rows", 1, "--seq-length", 7, "--tokenizer", "tokenizer.json", "--out", "plan.parquet"]
    words = ["inject", "plan", "facts.json", "--schedule", "general", "--group", "all=once", *sizes]
    assert "1 problem:\n  update 1: 2 items for 1 rows" in run_cli(*words)[2]
    code, out, _ = run_cli(*words, "--compat", "upstream")
    assert code == 0
    plan = read_injection_plan("plan.parquet")
    whole = TextEncoder((inputs / "tokenizer.json").read_text(encoding="utf-8")).encode(
        [FACTS[0]["train_context"], FACTS[1]["train_context"]]
    )
    assert [token for row in plan["tokens"].to_pylist() for token in row] == whole.ids[:7].tolist()
    assert plan["item_id"].to_pylist() == ["0/0", "bob/0"]
    assert out.endswith(f"\nlost as in the published code: 0 items, {len(whole.ids) - 7} tokens of others\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--schedule", "general", *FOR_ORDER], "--schedule general needs at least one --group"),
        (
            ["--schedule", "general", "--group", "all=once", "--count", 2, *FOR_ORDER],
            "and --interval if --count",
        ),
        (["--schedule", "fka", *FOR_ORDER], "the schedule does not fit the facts"),
        (["--schedule", "fka", "--store", "store"], "give --order and --store, or --rows and --seq-length"),
        (["--schedule", "fka", "--order", "order"], "--order goes with --store"),
        (["--schedule", "fka", "--rows", 1, "--seq-length", 8], "give --tokenizer, or --store"),
        ([*GENERAL[:6], "--start", 4, *FOR_ORDER], "update 4: the order has no such update"),
    ],
)
def test_wrong_use_of_plan_is_one_error_and_leaves_no_file(inputs, run_cli, words, message):
    code, out, err = run_cli("inject", "plan", "facts.json", *words, "--out", "plan.parquet")
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert message in err
    assert not (inputs / "plan.parquet").exists()
    code, _, err = run_cli("inject", "plan", "facts.json", *words, "--out", "plan.pq")
    assert (code, err) == (2, "error: 'plan.pq' must end in .parquet\n")


def test_a_plan_of_another_tokenizer_is_refused_and_one_that_names_none_is_told(inputs, run_cli):
    plan = ["inject", "plan", "facts.json", *GENERAL]
    assert run_cli(*plan, *FOR_ORDER, "--out", "plan.parquet")[0] == 0
    table = read_injection_plan("plan.parquet")
    write_injection_plan(table, inputs / "other.parquet", tokenizer_sha256="f" * 64)
    into = ["--store", "store", "--out", "new"]
    code, _, err = run_cli("inject", "apply", "order", "other.parquet", *into)
    assert code == 2
    assert err.startswith("error: the plan was made with the tokenizer ffffffffffff, the store with ")
    write_injection_plan(table, inputs / "unsaid.parquet")
    code, _, err = run_cli("inject", "apply", "order", "unsaid.parquet", *into)
    assert (code, err) == (
        0,
        "the plan does not say which tokenizer it was made with: nothing could be compared\n",
    )


def test_probes_are_written(inputs, run_cli):
    code, out, _ = run_cli("inject", "probes", "facts.json", "--out", "probes.jsonl")
    assert (code, out) == (0, "1 probe of 2 facts, probes.jsonl\n")
    assert read_probes("probes.jsonl")["probe_id"].to_pylist() == ["0-mem-0"]
    assert run_cli("inject", "probes", "facts.json", "--out", "probes.jsonl")[0] == 2
    assert run_cli("inject", "probes", "facts.json", "--out", "probes.csv")[0] == 2
    (inputs / "bare.json").write_text(json.dumps(FACTS[1:]), encoding="utf-8")
    code, _, err = run_cli("inject", "probes", "bare.json", "--out", "bare.jsonl")
    assert (code, err.startswith("error: the facts have no probes")) == (2, True)


def test_facts_that_no_chunk_states_are_studied_with_an_empty_table_of_fact_chunks(inputs, run_cli):
    assert run_cli("inject", "plan", "facts.json", *GENERAL, *FOR_ORDER, "--out", "plan.parquet")[0] == 0
    assert run_cli("inject", "apply", "order", "plan.parquet", "--store", "store", "--out", "new")[0] == 0
    assert run_cli("inject", "probes", "facts.json", "--out", "probes.jsonl")[0] == 0
    assert run_cli("facts", "chunks", "store", "probes.jsonl", "chunks.parquet")[0] == 0
    rows = [
        {"step": step, "fact_id": "0", "probe_id": "0-mem-0", "rank": 1 + (step < 2)} for step in (0, 2, 3)
    ]
    lines = [json.dumps(row) for row in rows]
    (inputs / "answers.jsonl").write_text("\n".join(lines), encoding="utf-8")
    code, out, _ = run_cli("dynamics", "new", "chunks.parquet", "answers.jsonl", "dynamics", "--json")
    assert code == 0
    assert json.loads(out)["facts_seen"] == 1
    facts = load_dynamics("dynamics").facts.to_pylist()
    assert [(row["exposures_by_step"], row["learned_at"]) for row in facts] == [([0, 1, 2], 2)]
    assert run_cli("report", "dynamics", "report.html")[0] == 0

import json
import re
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from chunk_provenance import DataOrder, cli, open_store, save_order, write_store

NAMES = ["Ada", "Bob", "Cleo", "Dan"]
UPDATES = [[0, 1], [0, 2], [1, 0], [0, 2]]  # Ada is read four times, Bob and Cleo twice, Dan never


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A finished run in the working directory: store, order, probes.parquet, answers.parquet."""
    monkeypatch.chdir(tmp_path)
    write_small_store(tmp_path / "store")
    info = {"store_sha256": open_store(tmp_path / "store").sha256}
    save_order(DataOrder(np.arange(0, 9, 2), np.array(UPDATES).reshape(-1), np.array([0, 2]), info), "order")
    probes = [
        {
            "fact_id": f"home-{name}",
            "probe_id": f"home-{name}-0",
            "relation": "home",
            "subject": f"Q{number}",
            "answer": "Q99",
            "subject_name": name,
            "answer_name": "Rome",
            "prompt": f"{name} lives in",
            "answers": ["Rome"],
            "distractors": ["Oslo"],
        }
        for number, name in enumerate(NAMES)
    ]
    pq.write_table(pa.Table.from_pylist(probes), "probes.parquet")
    ranks = {"Ada": [2, 1, 1, 1], "Bob": [2, 2, 1, 1], "Cleo": [2, 2, 2, 2], "Dan": [2, 2, 2, 2]}
    answers = [
        {"step": step, "fact_id": f"home-{name}", "probe_id": f"home-{name}-0", "rank": row[place]}
        for place, step in enumerate([0, 1, 3, 4])
        for name, row in ranks.items()
    ]
    pq.write_table(pa.Table.from_pylist(answers), "answers.parquet")
    return tmp_path


def write_small_store(path, form="{} lives in Rome."):
    """A chunk a person: 'Ada lives in Rome.'"""
    texts = [form.format(name) for name in NAMES]
    mentions = [
        (number, text.index(words), words, entity)
        for number, text in enumerate(texts)
        for words, entity in ((NAMES[number], f"Q{number}"), ("Rome", "Q99"))
    ]
    chunk, start, words, entity = map(list, zip(*mentions, strict=True))
    end = [at + len(surface) for at, surface in zip(start, words, strict=True)]
    doc_ids = [f"d{number}" for number in range(4)]
    write_store(
        path,
        tokens=np.zeros(4, dtype=np.uint32),
        chunks=pa.table(
            {"chunk_id": range(4), "token_start": range(4), "length": [1] * 4, "bucket": [1] * 4}
        ),
        segments=pa.table(
            {
                "chunk_id": range(4),
                "doc_id": doc_ids,
                "chunk_token_start": [0] * 4,
                "chunk_token_end": [1] * 4,
                "doc_token_start": [0] * 4,
                "char_start": [0] * 4,
                "char_end": [len(text) for text in texts],
            }
        ),
        documents=pa.table(
            {
                "doc_id": doc_ids,
                "title": NAMES,
                "source": ["b"] * 4,
                "url": pa.nulls(4, pa.string()),
                "text": texts,
            }
        ),
        mentions=pa.table(
            {
                "chunk_id": chunk,
                "token_start": [0] * 8,
                "token_end": [1] * 8,
                "char_start": start,
                "char_end": end,
                "doc_id": [doc_ids[number] for number in chunk],
                "doc_char_start": start,
                "doc_char_end": end,
                "surface": words,
                "entity": entity,
                "name": words,
                "score": [1.0] * 8,
                "hyperlink": [1.0] * 8,
                "entity_linking": [0.0] * 8,
                "coref": [0.0] * 8,
                "coref_cluster": [0.0] * 8,
                "cluster_id": pa.nulls(8, pa.int32()),
            }
        ),
        tokenizer_json="{}",
        meta={"tokenizer": {"pad_id": 0, "eos_id": 1, "vocab_size": 2}},
    )


@pytest.fixture
def call(monkeypatch, capsys):
    """Calls chunk-provenance as from a shell: exit code, stdout, stderr."""

    def run_command(line):
        monkeypatch.setattr(sys, "argv", ["chunk-provenance", *line.split()])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        captured = capsys.readouterr()
        return stopped.value.code or 0, captured.out, captured.err

    return run_command


FACTS = "facts chunks store probes.parquet facts.parquet"
DYNAMICS = "dynamics order facts.parquet answers.parquet out"
TRACE = "--store store --order order --facts facts.parquet --answers answers.parquet --probes probes.parquet"


@pytest.fixture
def joined(run, call):
    """The run with fact chunks and dynamics."""
    assert call(FACTS)[0] == 0
    assert call(DYNAMICS)[0] == 0
    return run


def test_facts_finds_the_chunks_of_every_fact(run, call):
    code, out, _ = call(f"{FACTS} --json")
    assert code == 0
    assert json.loads(out) == {
        "facts": 4,
        "kinds": [["the subject", 4, 1.0, 1], ["the answer", 4, 4.0, 4], ["both", 4, 1.0, 1]],
    }
    table = pq.read_table("facts.parquet")
    assert table.schema.metadata[b"store_sha256"].decode() == open_store("store").sha256
    shared = table.filter(pa.compute.equal(table["kind"], "shared"))
    assert shared["chunk_id"].to_pylist() == [0, 1, 2, 3]


def test_a_threshold_above_1_leaves_a_source_out(run, call):
    _, out, _ = call(f"{FACTS} --hyperlink 2 --json")
    assert [row[1] for row in json.loads(out)["kinds"]] == [0, 0, 0]


def test_dynamics_prints_a_summary_and_rho(run, call):
    call(FACTS)
    code, out, _ = call(f"{DYNAMICS} --section s.json")
    assert code == 0
    # Exposures 4, 2, 2, 0; learned at 1, 3, never, never: ranks 4 2.5 2.5 1 and 4 3 1.5 1.5,
    # from their mean 1.5 0 0 -1.5 and 1.5 0.5 -1 -1: products 2.25 + 1.5, both sums of squares 4.5.
    assert "learned is 0.833" in " ".join(out.split())
    assert "Facts by exposures in the run" in out
    assert json.loads((run / "s.json").read_text(encoding="utf-8"))["command"].startswith(
        "chunk-provenance dynamics order facts.parquet"
    )
    assert sorted(file.name for file in (run / "out").iterdir()) == [
        "accuracy.parquet",
        "dynamics.json",
        "facts.parquet",
        "intervals.parquet",
    ]


def test_dynamics_takes_bins_intervals_and_definitions(run, call):
    call(FACTS)
    code, out, _ = call(f"{DYNAMICS} --bins 0,3 --intervals 0,4 --consecutive 3 --max-rank 1 --json")
    assert code == 0
    summary = json.loads(out)
    assert [[row["exposures"], row["facts"], row["learned"]] for row in summary["by_exposures"]] == [
        ["0-2", 3, 0],
        ["3+", 1, 1],
    ]
    intervals = pq.read_table("out/intervals.parquet")
    assert set(zip(*(intervals[name].to_pylist() for name in ("step_from", "step_to")), strict=True)) == {
        (0, 4)
    }


def test_trace_shows_the_passages_read_before(joined, call):
    code, out, _ = call(f"trace home-Bob {TRACE} --section t.json")
    assert code == 0
    words = " ".join(out.split())
    assert "Learned at step 3 (the checkpoint before is step 1); seen 2 times by then" in words
    assert "step 1 (epoch 1), 3 (epoch 2) · Bob · b, document d1, characters 0-18 Bob lives in Rome." in words
    assert (
        json.loads((joined / "t.json").read_text(encoding="utf-8"))["passages"][0]["text"]
        == "Bob lives in Rome."
    )
    traced = json.loads(call(f"trace home-Bob-0 {TRACE} --json")[1])
    assert (traced["learned_at"], traced["passages"][0]["steps"]) == (3, [1, 3])


def test_trace_lists_facts_and_picks_one(joined, call):
    rows = json.loads(call(f"trace --list {TRACE} --json")[1])
    assert [[row["kind"], row["fact_id"], row["exposures"], row["learned_at"]] for row in rows] == [
        ["often", "home-Ada", 4, 1],
        ["often", "home-Bob", 2, 3],
        ["rare", "home-Bob", 2, 3],
        ["rare", "home-Ada", 4, 1],
        ["never", "home-Cleo", 2, None],
    ]
    _, out, _ = call(f"trace --list {TRACE} --limit 1")
    assert "home-Cleo" in out
    assert call(f"trace --pick rare {TRACE}")[1].startswith("home-Bob: Bob, home, Rome")


def test_picking_a_kind_that_the_run_does_not_have_says_so(joined, call):
    known = pq.read_table("answers.parquet").drop_columns("rank")
    pq.write_table(known.append_column("rank", pa.array([2] * known.num_rows)), "answers.parquet")
    code, out, _ = call(f"trace --pick rare {TRACE} --section t.json")
    kind = "learned after it was seen, known at the end, seen least often"
    assert (code, out) == (0, f"No fact of this run is of the kind 'rare' ({kind}).\n")
    assert json.loads((joined / "t.json").read_text(encoding="utf-8"))["summary"] == out.strip()


def test_report_makes_a_page_and_prints_rho(joined, call):
    call(f"trace home-Ada {TRACE} --section t.json")
    code, out, _ = call("report out page.html --section t.json")
    assert code == 0
    assert "is 0.833" in out
    page = (joined / "page.html").read_text(encoding="utf-8")
    assert "Trace: Ada, home, Rome" in page
    assert '<mark class="subject">Ada</mark> lives in <mark>Rome</mark>.' in page


def test_cloze_writes_probes_that_facts_reads(run, call):
    code, _, err = call("cloze store cloze.jsonl")
    assert code == 2
    assert "no sentence with a link has enough before it" in err
    write_small_store(run / "longer", form="{} lives in the city of Rome.")
    assert call("cloze longer cloze.jsonl --max-probes 2")[:2] == (0, "2 probes\n")
    assert call("facts chunks longer cloze.jsonl f.parquet")[0] == 0
    assert len(pq.read_table("f.parquet")["fact_id"].unique()) == 2


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("facts chunks nowhere probes.parquet new.parquet", "no chunk store at 'nowhere'"),
        ("facts chunks store nowhere.parquet new.parquet", "no probes file at 'nowhere.parquet'"),
        (FACTS, "'facts.parquet' exists: choose another place or give --overwrite"),
        (f"{FACTS} --overwrite --coref 0", "evidence thresholds must be above 0"),
        (DYNAMICS, "'out' exists: choose another place or give --overwrite"),
        (f"{DYNAMICS}2 --bins 0,x", "--bins takes whole numbers separated by commas, found '0,x'"),
        (f"{DYNAMICS}2 --bins 1,2", "exposure bins must begin at 0 and ascend, found [1, 2]"),
        (f"{DYNAMICS}2 --intervals 0,2", "no answers at the steps [2], there are [0, 1, 3, 4]"),
        ("dynamics store facts.parquet answers.parquet out2", "no data order at 'store'"),
        ("dynamics order probes.parquet answers.parquet out2", "lacks the fact-chunks columns"),
        ("dynamics order facts.parquet facts.parquet out2", "is a 'fact-chunks' file, expected 'answers'"),
        (f"trace {TRACE}", "give one of FACT, --list and --pick"),
        (f"trace home-Ada --list {TRACE}", "give one of FACT, --list and --pick"),
        (f"trace --pick best {TRACE}", "--pick takes one of ['often', 'rare', 'never'], found 'best'"),
        (f"trace home-Adda {TRACE}", "no fact or probe 'home-Adda' among 4 probes; close ones: 'home-Ada'"),
        ("report store page.html", "no dynamics at 'store'"),
        ("report out page.html --section answers.parquet", "is no JSON"),
        ("cloze nowhere p.jsonl", "no chunk store at 'nowhere'"),
        ("cloze store p.txt", "must end in .parquet or .jsonl"),
    ],
)
def test_a_mistake_is_one_line_on_stderr_and_exit_code_2(joined, call, line, message):
    code, out, err = call(line)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err


@pytest.mark.parametrize(
    "command", ["facts chunks", "facts paraphrase", "dynamics", "trace", "cloze", "report"]
)
def test_every_command_has_a_help_with_an_example(call, command):
    code, out, _ = call(f"{command} --help")
    words = re.sub(r"[\s│]+", " ", out)
    assert code == 0
    assert f"Example: chunk-provenance {command}" in words

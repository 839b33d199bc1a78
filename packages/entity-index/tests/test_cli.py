import json
import subprocess
import sys

import pyarrow.parquet as pq
import pytest

from chunk_provenance.sections import read_section
from entity_index import build_index

TEXTS = ["Ada Lovelace met Babbage.", "She\nwrote.", "Babbage alone.", "Ada Lovelace is a ship."]


@pytest.fixture(scope="module")
def store(tmp_path_factory, row, write_store_of):
    mentions = [
        row(0, 0, 12, "Q1", name="Ada Lovelace", hyperlink=1.0),
        row(0, 17, 24, "Q2", name="Babbage", entity_linking=0.7),
        row(1, 0, 3, "Q1", name="Ada Lovelace", coref_cluster=0.8),
        row(2, 0, 7, "Q2", name="Babbage", hyperlink=1.0),
        row(3, 0, 12, "Q3", name="Ada Lovelace", hyperlink=1.0),
    ]
    titles = ["Meeting", None, "Inventor", "Ship"]
    return write_store_of(tmp_path_factory.mktemp("cli") / "store", TEXTS, mentions, titles).path


@pytest.fixture(scope="module")
def index(store):
    build_index(store, store.with_name("index"))
    return store.with_name("index")


def test_build_says_what_it_does_and_keeps_what_is_there(run, store, tmp_path):
    path, counts = tmp_path / "index", "5 mentions of 3 entities in 4 chunks (0 without entity left out)"
    code, out, words = run("build", store, path)
    assert (code, out) == (0, "")
    assert words.splitlines()[:2] == ["sorting mentions (5)", "writing postings (5)"]
    assert words.endswith(f" s: {counts}\n")
    assert run("build", store, path) == (0, "", f"{path} is up to date: {counts}\n")


def test_a_name_stands_for_the_entity_it_names_in_most_chunks(run, index):
    code, out, words = run("query", index, "name:ada lovelace")
    assert code == 0
    assert out == (
        "2 chunks with Q1\n"
        "chunk 0  score 1.00  Meeting\n   [Ada Lovelace] met Babbage.\n"
        "chunk 1  score 0.80  d1\n   [She] wrote.\n"
    )
    assert words == "'ada lovelace' is Q1 (Ada Lovelace, 2 chunks); not Q3 (Ada Lovelace, 1 chunk)\n"


def test_entities_strings_and_exclusions_combine(run, index):
    def chunks(*arguments):
        code, out, _ = run("query", index, *arguments, "--json")
        return code, [hit["chunk_id"] for hit in json.loads(out)["hits"]]

    assert chunks("Q1", "Q2") == (0, [0])
    assert chunks("Q1", "Q2", "--any") == (0, [0, 2, 1])
    assert chunks("Q2", "--not", "Q1") == (0, [2])
    assert chunks("--string", "ada lovelace") == (0, [0, 3])
    assert chunks("--string", "ada lovelace", "--case-sensitive") == (1, [])
    assert chunks("Q1", "--string", "WROTE") == (0, [1])
    assert chunks("Q1", "--string", "alone", "--any", "--limit", "2") == (0, [0, 1])
    assert chunks("Q2", "--min-score", "entity_linking=none") == (0, [2])
    assert chunks("Q1", "--min-score", "coref_cluster=0.9") == (0, [0])


def test_json_holds_the_places(run, index):
    _, out, _ = run("query", index, "Q1", "--string", "met", "--json")
    (hit,) = json.loads(out)["hits"]
    assert (hit["text"], hit["title"], hit["phrases"]) == ("Ada Lovelace met Babbage.", "Meeting", [[13, 16]])
    assert [(m["char_start"], m["char_end"], m["entity"]) for m in hit["mentions"]] == [(0, 12, "Q1")]


def test_names_are_listed_by_footprint(run, index):
    assert run("names", index, "ADA LOVELACE")[1] == (
        "entity  mostly called  here          chunks\n"
        "Q1      Ada Lovelace   Ada Lovelace       2\n"
        "Q3      Ada Lovelace   Ada Lovelace       1\n"
    )
    assert [match["entity"] for match in json.loads(run("names", index, "b", "--prefix", "--json")[1])] == [
        "Q2"
    ]
    assert run("names", index, "nobody")[::2] == (1, "no entity is called 'nobody'\n")


def test_a_chunk_is_shown_with_its_candidates(run, index):
    out = run("chunk", index, 1)[1]
    assert out.splitlines() == [
        "chunk 1, d1",
        "She",
        "wrote.",
        "",
        "place  text  entity  score  hyperlink  entity_linking  coref  coref_cluster",
        "0-3    She   Q1       0.80       0.00            0.00   0.00           0.80",
    ]
    assert json.loads(run("chunk", index, 1, "--json")[1])["mentions"][0]["entity"] == "Q1"


def test_compare_shows_what_the_name_misses(run, index, tmp_path):
    code, out, _ = run("compare", index, "Q1", "--section", tmp_path / "section.json")
    assert code == 0
    assert "its name, Ada Lovelace       2            1       1             1\n" in out
    assert "missed by its name:\nchunk 1  score 0.80  d1\n   [She] wrote.\n" in out
    assert "found by the name only:\nchunk 3  score 0.00  Ship\n   [Ada Lovelace] is a ship.\n" in out
    section = read_section(tmp_path / "section.json")
    assert section["tables"][1]["rows"] == [["She", 1]]
    assert section["passages"][0]["text"] == "She wrote."
    assert json.loads(run("compare", index, "--json")[1])["entity"] == "Q1"


def test_a_query_can_be_a_section_of_the_report(run, index, tmp_path):
    run("query", index, "Q1", "Q2", "--section", tmp_path / "section.json")
    section = read_section(tmp_path / "section.json")
    assert (section["title"], section["summary"]) == ("Chunks with Q1 and Q2", "1 chunk.")
    assert section["passages"][0]["spans"] == [[0, 12, "subject"], [17, 24, "subject"]]


def test_facts_are_written_and_never_replaced_unasked(run, index, tmp_path):
    probe = {"fact_id": "f", "probe_id": "p", "relation": "r", "subject": "Q1", "answer": "Q2", "prompt": "x"}
    probe |= {"subject_name": "Ada", "answer_name": "Babbage", "answers": ["Babbage"], "distractors": []}
    (tmp_path / "probes.jsonl").write_text(json.dumps(probe) + "\n", encoding="utf-8")
    paths = tmp_path / "probes.jsonl", tmp_path / "facts.parquet"
    code, out, _ = run("facts", index, *paths)
    assert code == 0
    assert out.splitlines()[-1].split() == ["shared", "1", "1"]
    rows = [tuple(row.values()) for row in pq.read_table(paths[1]).to_pylist()]
    expected = [("subject", 0), ("subject", 1), ("answer", 0), ("answer", 2), ("shared", 0)]
    assert rows == [("f", kind, chunk) for kind, chunk in expected]
    assert run("facts", index, *paths)[0] == 2
    assert json.loads(run("facts", index, *paths, "--overwrite", "--json")[1])["chunks"]["shared"] == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["query", "INDEX"], "error: nothing to look for"),
        (["query", "INDEX", "--string", "..."], "error: the phrase '...' has no words to search for"),
        (["query", "INDEX", "Q1", "--min-score", "coref"], "error: --min-score 'coref' is not SOURCE=SCORE"),
        (["query", "INDEX", "Q1", "--min-score", "who=1"], "error: --min-score 'who=1' is not SOURCE=SCORE"),
        (
            ["query", "INDEX", "Q1", "--min-score", "coref=2"],
            "error: threshold coref = 2.0 is outside [0, 1]",
        ),
        (["query", "INDEX", "name:nobody"], "error: no entity is called 'nobody'"),
        (["query", "nowhere", "Q1"], "error: no entity index at 'nowhere'"),
        (["chunk", "INDEX", "4"], "error: no chunk 4 in"),
        (["compare", "INDEX", "Q0"], "error: the index knows no name of 'Q0'"),
        (["build", "nowhere", "out"], "error: no chunk store at 'nowhere'"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(run, index, arguments, message):
    code, out, words = run(*(str(index) if word == "INDEX" else word for word in arguments))
    assert (code, out) == (2, "")
    assert words.splitlines()[-1].startswith(message)


def test_an_unknown_entity_is_said_and_exits_with_1(run, index):
    code, out, words = run("query", index, "Q0")
    assert (code, out) == (1, "0 chunks with Q0\n")
    assert words == "no mention is of 'Q0': 'entity-index names' finds entities by name\n"


@pytest.mark.parametrize("command", ["", "build", "query", "names", "chunk", "facts", "compare"])
def test_every_command_has_help_with_an_example(run, command):
    code, out, _ = run(*filter(None, [command]), "--help")
    assert code == 0
    assert not command or f"Example: entity-index {command}" in out


def test_help_does_not_import_torch():
    code = "import sys, entity_index.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

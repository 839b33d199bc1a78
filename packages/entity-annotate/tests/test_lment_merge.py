"""The LMEnt-compatible merge against what LMEnt's code computed (golden/README.md), whole."""

import gzip
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from entity_annotate.cli import app
from entity_annotate.lment_merge import (
    Candidate,
    CorefMention,
    coverage,
    merge_record,
    normalize,
    read_evidence,
    score_clusters,
    similarity,
)
from entity_annotate.lment_records import convert_file, merge_file
from entity_annotate.merge import merge_evidence
from entity_annotate.records import Document, Mention

GOLDEN = Path(__file__).parent / "golden" / "aggregate"
README = Path(__file__).parents[1] / "README.md"


def golden(name):
    return json.loads((GOLDEN / name).read_text(encoding="utf-8"))


LABELS = golden("qcode_to_wiki.json")
PAIRS = list(zip(golden("input.json"), golden("output.json"), strict=True))


def by_entity(entities):
    """The mentions in order, candidates as a mapping: upstream's are in the order of a set."""
    return [{**m, "candidates": {c["qid"]: c for c in m["candidates"]}} for m in entities]


@pytest.mark.parametrize(("record", "output"), PAIRS, ids=[record["id"] for record, _ in PAIRS])
def test_every_golden_document_is_merged_equally(record, output):
    if "EXC" in output["entities"]:
        with pytest.raises(ValueError, match="'Rome' has no confidence"):
            merge_record(record, LABELS)
        return
    found = merge_record(record, LABELS)
    assert by_entity(found) == by_entity(output["entities"])  # not one score differs, nor a span's place


@pytest.mark.parametrize(("record", "output"), PAIRS, ids=[record["id"] for record, _ in PAIRS])
def test_every_golden_cluster_is_scored_equally(record, output):
    if "EXC" in output["entities"]:
        return
    clusters = score_clusters(read_evidence(record, LABELS))
    expected = output["intermediate"]
    assert {str(cluster.number): cluster.entity_scores for cluster in clusters} == {
        number: pytest.approx(scores, rel=1e-14)  # sums of a few floats, in another order
        for number, scores in expected["cluster_entity_scores"].items()
    }
    for cluster in clusters:
        golden_mentions = expected["clusters_scored"][str(cluster.number)]
        assert [as_upstream(mention) for mention in cluster.mentions] == [
            {name: value for name, value in mention.items() if name != "id"} for mention in golden_mentions
        ]
        for mention, golden_mention in zip(cluster.mentions, golden_mentions, strict=True):
            if "id" in golden_mention:  # the one entity of a mention without a candidate of its own
                assert list(mention.scores) == ([golden_mention["id"]] if golden_mention["id"] else [])
    assert len(clusters) == len(expected["clusters_scored"])


def as_upstream(mention):
    scored = {} if mention.scores is None else {"score": mention.scores}
    return {
        "start": mention.char_start,
        "end": mention.char_end,
        "coref_text": mention.text,
        "entities": [_covering(found, "el_text") for found in mention.linked],
        "links": [_covering(found, "surface_form") for found in mention.links],
        **scored,
    }


def _covering(found, text_name):
    candidate, share = found
    return {
        "id": candidate.entity,
        text_name: candidate.text,
        "start": candidate.char_start,
        "end": candidate.char_end,
        "coverage_ratio": share,
        "confidence": candidate.confidence,
    }


def test_golden_units_are_equal():
    unit = golden("unit.json")
    assert {text: normalize(text) for text in unit["normalize_span_text"]} == unit["normalize_span_text"]
    assert [similarity(a, b) for a, b, _ in unit["lcs_overlap_ratio"]] == [
        value for *_, value in unit["lcs_overlap_ratio"]
    ]
    for span, found, value in unit["calculate_normalized_coverage"]:
        candidate = Candidate(found["start"], found["end"], found["text"], "Q1", "", 1.0)
        assert coverage(CorefMention(span["start"], span["end"], span["text"]), candidate) == value


def test_the_native_merge_differs_where_it_should():
    """Section by section: coverage at most 1, the better of two scores, no rounding, sorted candidates."""
    record = next(record for record, _ in PAIRS if record["id"] == "13")
    linked = [Mention(0, 7, "Q7186", 0.9)]
    native = merge_evidence(record["text"], [], linked, [[(0, 7), (18, 25)]])
    lment = merge_record(record, {})
    assert [row.coref for row in native] == [0.9, 0.9]
    assert [m["candidates"][0]["scores_by_source"]["coref"] for m in lment] == [1.26, 0.9]
    thirds = [Mention(0, 4, "Q2", 1 / 3), Mention(0, 4, "Q1", 1 / 3)]
    assert [(row.entity, row.entity_linking) for row in merge_evidence("Rome", [], thirds, [])] == [
        ("Q1", 1 / 3),
        ("Q2", 1 / 3),
    ]


WORDS = st.sampled_from(["Ann", "the Ann's", "Ann Arbor", "she", "Arbor", "a", "It"])
SPANS = st.tuples(st.integers(0, 12), WORDS).map(lambda pair: (pair[0], pair[0] + len(pair[1]), pair[1]))
LINKED = st.tuples(SPANS, st.sampled_from(["Q1", "Q2"]), st.sampled_from([0.0, 0.25, 0.5, 1.0]))


@given(st.lists(SPANS, max_size=4), st.lists(LINKED, max_size=5))
def test_candidates_of_a_mention_are_those_that_overlap_it_in_their_order(spans, linked):
    record = {
        "entity_linking": [
            {
                "start": start,
                "ln": end - start,
                "text": text,
                "predicted_entity": {"wikidata_entity_id": entity},
                "entity_linking_model_confidence_score": confidence,
            }
            for (start, end, text), entity, confidence in linked
        ],
        "coref": {
            "clusters_char_offsets": [[[start, end] for start, end, _ in spans]],
            "clusters_char_text": [[text for *_, text in spans]],
        },
    }
    evidence = read_evidence(record, {})
    for cluster in score_clusters(evidence):
        for mention in cluster.mentions:
            assert [found.candidate for found in mention.linked] == [
                candidate
                for candidate in evidence.linked
                if not (candidate.char_end <= mention.char_start or candidate.char_start >= mention.char_end)
            ]


def run(*words):
    return CliRunner().invoke(app, list(map(str, words)))


@pytest.mark.skipif(not README.exists(), reason="the README is not beside the tests (a wheel is tested)")
def test_the_commands_print_what_the_readme_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_lines(Path("annotated.jsonl"), [record for record, _ in PAIRS])
    words = ("merge-lment", "annotated.jsonl", "merged.jsonl", "--labels", GOLDEN / "qcode_to_wiki.json")
    merged = run(*words, "--max-failed", 0.1)
    converted = run("lment-mentions", "merged.jsonl", "mentions.parquet")
    assert (merged.exit_code, converted.exit_code) == (0, 0)
    for printed in (merged.stdout + merged.stderr, converted.stdout):
        assert printed in README.read_text(encoding="utf-8")
    again = run(*words)  # 1 of 16 is more than the 1% allowed
    assert (again.exit_code, again.stdout.split()[2:7]) == (1, ["done", "0", "done", "before", "15"])


def test_a_mistake_with_records_is_named(tmp_path):
    (tmp_path / "labels.json").write_text("[]")
    words = ("merge-lment", tmp_path / "in.jsonl", tmp_path / "out.jsonl")
    assert "must be one JSON object" in str(run(*words, "--labels", tmp_path / "labels.json").exception)
    assert "there is no file" in str(run(*words).exception)
    (tmp_path / "m.parquet").write_bytes(b"")
    found = run("lment-mentions", tmp_path / "in.jsonl", tmp_path / "m.parquet")
    assert "give --overwrite" in str(found.exception)


def write_lines(path, lines):
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "wb") as file:
        file.writelines(
            line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n" for line in lines
        )
    return path


@pytest.fixture
def records(tmp_path):
    """The golden documents and lines that cannot be used, as a file."""
    first = PAIRS[0][0]
    broken = {**first, "id": "b", "entity_linking": [{"predicted_entity": {"wikidata_entity_id": "Q1"}}]}
    bad = [
        b"{\n",
        b'\xff{"id": 1}\n',
        b'{"text": "no id"}\n',
        first,
        broken,
        {**first, "id": "62180015"},
        b"\n",
    ]
    return write_lines(tmp_path / "in.jsonl", [record for record, _ in PAIRS] + bad)


FAILED = {
    "bad JSON": 1,
    "broken record": 2,  # of them one is golden document 15
    "duplicate id": 1,
    "left out": 1,
    "no id": 1,
    "not UTF-8": 1,
}


def test_a_file_is_merged_and_bad_lines_are_listed(records, tmp_path):
    out = tmp_path / "out.jsonl"
    counts = merge_file(records, out, labels=LABELS)
    merged = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    expected = [(r, o) for r, o in PAIRS if "EXC" not in o["entities"]]
    assert [(m["id"], by_entity(m["entities"])) for m in merged] == [
        (o["id"], by_entity(o["entities"])) for _, o in expected
    ]
    gone = {"hyperlinks", "hyperlinks_clean", "coref", "entity_linking"}
    assert [set(m) for m in merged] == [set(r) - gone | {"entities"} for r, _ in expected]
    assert (counts.done, counts.done_before, dict(counts.failed)) == (15, 0, FAILED)
    failures = [json.loads(line) for line in (tmp_path / "out.jsonl.failed.jsonl").read_text().splitlines()]
    assert [(f["line"], f["id"], f["kind"]) for f in failures] == [
        (15, "15", "broken record"),
        (17, None, "bad JSON"),
        (18, None, "not UTF-8"),
        (19, None, "no id"),
        (20, "1", "duplicate id"),
        (21, "b", "broken record"),
        (22, "62180015", "left out"),
    ]
    assert failures[1]["content"] == "{"
    assert failures[5]["reason"] == "its 'entity_linking' is not as LMEnt writes it: no field 'text'"


def test_a_killed_run_continues_and_ends_with_the_same_bytes(records, tmp_path):
    whole, out = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    merge_file(records, whole, labels=LABELS)
    content = whole.read_bytes()
    for kept in (0, 10, len(content) // 2, len(content)):
        out.write_bytes(content[:kept])
        counts = merge_file(records, out, labels=LABELS)
        assert out.read_bytes() == content
        assert counts.done_before == content[:kept].count(b"\n")
        assert dict(counts.failed) == FAILED


def test_a_whole_good_file_leaves_no_list_of_failures(tmp_path):
    source = write_lines(tmp_path / "in.jsonl.gz", [PAIRS[0][0]])
    assert merge_file(source, tmp_path / "out.jsonl", labels=LABELS).failed == {}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl.gz", "out.jsonl"]


def test_an_output_of_something_else_is_refused(records, tmp_path):
    out = write_lines(tmp_path / "out.jsonl", [{"id": 1}])
    with pytest.raises(ValueError, match="holds records without 'entities'"):
        merge_file(records, out, labels={})
    write_lines(out, [b"hello\n"])
    with pytest.raises(ValueError, match="holds something else than merged records"):
        merge_file(records, out, labels={})
    assert merge_file(records, out, labels={}, overwrite=True).done == 15


def test_a_cut_off_file_and_one_that_is_not_there_are_refused(tmp_path):
    source = write_lines(tmp_path / "in.jsonl.gz", [PAIRS[0][0]])
    source.write_bytes(source.read_bytes()[:-20])
    with pytest.raises(ValueError, match="is cut off or damaged"):
        merge_file(source, tmp_path / "out.jsonl", labels={})
    with pytest.raises(FileNotFoundError, match="there is no file"):
        convert_file(tmp_path / "nowhere", tmp_path / "mentions.parquet")
    assert not (tmp_path / "mentions.parquet").exists()


def test_merged_records_become_mentions(records, tmp_path):
    merge_file(records, tmp_path / "out.jsonl", labels=LABELS)
    counts = convert_file(tmp_path / "out.jsonl", tmp_path / "mentions.parquet")
    table = pq.read_table(tmp_path / "mentions.parquet")
    assert table.schema.metadata[b"format"] == b"mentions"
    assert table.num_rows == counts.candidates
    texts = {record["id"]: record["text"] for record, _ in PAIRS}
    rows = table.to_pylist()
    for row in rows:
        text = texts[row["doc_id"]]
        assert row["surface"] == text[row["char_start"] : row["char_end"]]
        assert row["text_sha256"] == Document("", text).text_sha256
        assert all(
            0 <= row[source] <= 1 for source in ("hyperlink", "entity_linking", "coref", "coref_cluster")
        )
    of_first = [
        (r["surface"], r["entity"], r["name"], round(r["hyperlink"], 2), round(r["score"], 2))
        for r in rows
        if r["doc_id"] == "1"
    ]
    assert of_first == [
        ("Josh Allen", "Q4985891", "Josh Allen", 0.0, 0.58),
        ("the Buffalo Bills", "Q221626", "Buffalo Bills", 0.0, 0.3),
        ("Buffalo Bills", "Q221626", "Buffalo Bills", 1.0, 0.67),
        ("He", "Q4985891", "Josh Allen (quarterback)", 0.0, 0.1),
        ("the Bills", "Q221626", "Buffalo Bills", 0.0, 0.22),
        ("Bills", "Q221626", "Buffalo Bills", 0.0, 0.19),
        ("The team", "Q221626", "Buffalo Bills", 0.0, 0.1),
        ("him", "Q4985891", "Josh Allen (quarterback)", 0.0, 0.1),
    ]
    assert next(r["coref"] for r in rows if r["doc_id"] == "13") == 1.0  # 1.26 there


def test_records_that_cannot_be_mentions_are_listed(tmp_path):
    mention = {"char_start": 0, "char_end": 9, "candidates": []}
    source = write_lines(
        tmp_path / "in.jsonl",
        [
            {"id": 1, "text": "Ada", "entities": [mention]},
            {"id": 2, "entities": []},
            {"id": 3, "text": "Ada"},
            {"id": 4, "text": "Ada", "entities": [{**mention, "char_end": 3}]},
        ],
    )
    counts = convert_file(source, tmp_path / "mentions.parquet")
    assert dict(counts.failed) == {"offset mismatch": 1, "no text": 1, "broken record": 1}
    rows = pq.read_table(tmp_path / "mentions.parquet").select(["doc_id", "surface", "entity"]).to_pylist()
    assert rows == [{"doc_id": "4", "surface": "Ada", "entity": None}]


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"hyperlinks_clean": [{"qcode": "Q1", "start": "0"}]}, "'hyperlinks_clean' .* no field 'end'"),
        (
            {"hyperlinks_clean": [dict(qcode="Q1", start="0", end=3, surface_form="Ada", uri="Ada")]},
            "offsets '0' and 3 are no whole numbers",
        ),
        ({"coref": {"clusters_char_offsets": [[[0, 3]]], "clusters_char_text": []}}, "'coref' is not as"),
        (
            {"coref": {"clusters_char_offsets": [[[0, 3]]], "clusters_char_text": [[7]]}},
            "text 7 is no string",
        ),
        ({"entity_linking": ["Ada"]}, "'entity_linking' is not as LMEnt writes it"),
    ],
)
def test_annotations_of_another_form_are_refused(record, message):
    with pytest.raises(ValueError, match=message):
        merge_record(record, {})

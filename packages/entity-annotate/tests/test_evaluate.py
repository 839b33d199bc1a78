"""Evaluation against gold: what counts as an answer, and what as right."""

import json

import pytest

from entity_annotate.evaluate import ALL, evaluate_mentions
from entity_annotate.tables import GOLD, MENTIONS, FormatError, write_rows

SCORES = ("hyperlink", "entity_linking", "coref", "coref_cluster")


def mention(doc, start, end, entity, **scores):
    row = dict.fromkeys(SCORES, 0.0) | scores
    row |= {"doc_id": doc, "text_sha256": "", "char_start": start, "char_end": end, "entity": entity}
    return row | {
        "surface": "x",
        "name": None,
        "score": max(scores.values(), default=0.0),
        "cluster_id": None,
    }


@pytest.fixture
def files(tmp_path):
    mentions, gold = tmp_path / "mentions.parquet", tmp_path / "gold.jsonl"
    write_rows(
        mentions,
        MENTIONS,
        [
            mention("1", 0, 3, "Q1", hyperlink=1.0),
            mention("1", 5, 8, "Q2", entity_linking=0.6, score=0.6),
            mention("1", 5, 8, "Q3", entity_linking=0.59),
            mention("1", 9, 11, "Q1", coref_cluster=0.9),
            mention("1", 20, 22, "Q9", coref=0.7),
            mention("1", 30, 32, None),
            mention("no gold here", 0, 3, "Q1", hyperlink=1.0),
        ],
    )
    rows = [(0, 3, "Q1", "link"), (5, 8, "Q2", "name"), (9, 11, "Q1", "pronoun"), (15, 18, "Q4", "name")]
    lines = [
        json.dumps(
            {"doc_id": "1", "char_start": s, "char_end": e, "entity": entity, "kind": kind, "surface": "x"}
        )
        for s, e, entity, kind in rows
    ]
    gold.write_text("\n".join(lines) + "\n")
    return mentions, gold


def test_each_source_is_scored_by_its_own_threshold(files):
    result = evaluate_mentions(*files)
    counts = {score.source: (score.predicted, score.correct, score.gold) for score in result.sources}
    assert counts == {
        "hyperlinks": (1, 1, 4),
        "entity_linking >= 0.6": (1, 1, 4),
        "coref or coref_cluster >= 0.6": (2, 1, 4),
        ALL: (4, 3, 4),
        "best candidate of each span, no threshold": (4, 3, 4),
    }
    assert result.kinds == {"link": (1, 1), "name": (2, 1), "pronoun": (1, 1)}
    assert result.num_documents == 1
    whole = result.sources[3]
    assert (whole.precision, whole.recall, whole.f1) == (0.75, 0.75, 0.75)


def test_nothing_found_scores_zero(files):
    mentions, gold = files
    write_rows(mentions, MENTIONS, [])
    result = evaluate_mentions(mentions, gold)
    assert {(s.precision, s.recall, s.f1) for s in result.sources} == {(0.0, 0.0, 0.0)}


def test_gold_as_parquet_is_the_same(files, tmp_path):
    mentions, gold = files
    rows = [json.loads(line) for line in gold.read_text().splitlines()]
    write_rows(tmp_path / "gold.parquet", GOLD, rows)
    assert evaluate_mentions(mentions, tmp_path / "gold.parquet") == evaluate_mentions(mentions, gold)


def test_wrong_files_are_refused_in_a_sentence(files, tmp_path):
    mentions, gold = files
    with pytest.raises(FormatError, match="holds 'mentions', expected 'gold-mentions'"):
        evaluate_mentions(mentions, mentions)
    gold.write_text("")
    with pytest.raises(FormatError, match="no column 'doc_id'"):
        evaluate_mentions(mentions, gold)
    gold.write_text("{")
    with pytest.raises(FormatError, match=r"line 1 of .* is no JSON"):
        evaluate_mentions(mentions, gold)
    gold.write_text('{"doc_id": "1", "char_start": 0, "char_end": 3, "entity": "Q1"}')
    (tmp_path / "x.parquet").write_text("x")
    with pytest.raises(FormatError, match=r"neither Parquet nor named \.jsonl"):
        evaluate_mentions(tmp_path / "x.parquet", gold)
    with pytest.raises(FileNotFoundError, match="there is no file"):
        evaluate_mentions(mentions, tmp_path / "nowhere")

import gzip
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from model_merge.cli import app
from model_merge.corpus import Line, Source, find_sources
from model_merge.decontaminate import (
    Threshold,
    collect_sets,
    decontaminate,
    find_overlap,
    hash_ngrams,
    words_of,
)


def write_lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def evaluation(tmp_path):
    write_lines(tmp_path / "paloma" / "c4.jsonl", [{"text": "The quick brown fox jumps over the lazy dog"}])
    write_lines(
        tmp_path / "quiz.jsonl", [{"text": "Who wrote it?"}, {"text": "Ada was born in Torfield in 1810"}]
    )
    return [tmp_path / "paloma", tmp_path / "quiz.jsonl"]


ROWS = [
    {"id": "clean", "text": "Nothing of the kind stands here, whatever one may say"},
    {"id": "fox", "text": "He said: THE QUICK, brown fox jumps; and it did"},
    {"id": "ada", "text": "It is known that Ada was born in Torfield"},
    {"id": "short", "text": "brown fox"},
]


def overlap_by_hand(text, texts, n):
    """How many of a text's n-grams stand in others, by comparing lists of words."""
    words = words_of(text)
    other = {tuple(theirs[i : i + n]) for theirs in map(words_of, texts) for i in range(len(theirs) - n + 1)}
    return sum(tuple(words[i : i + n]) in other for i in range(len(words) - n + 1))


def run(*words):
    return CliRunner().invoke(app, ["ablate", "decontaminate", *map(str, words)])


def test_documents_that_share_an_ngram_go_and_are_listed_with_it(tmp_path, evaluation):
    corpus = write_lines(tmp_path / "corpus.jsonl", ROWS)
    summary = decontaminate(find_sources(corpus), tmp_path / "out", evaluation, Threshold(ngram=5))
    kept = (tmp_path / "out" / "corpus.jsonl").read_bytes().splitlines()
    assert kept == [corpus.read_bytes().splitlines()[i] for i in (0, 3)]
    listed = (tmp_path / "out" / "removed.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in listed] == [
        {
            "place": "corpus.jsonl line 2",
            "doc_id": "fox",
            "num_matches": 1,  # the quick brown fox jumps
            "num_ngrams": 6,
            "evaluation_set": "paloma",
            "ngram": "the quick brown fox jumps",
        },
        {
            "place": "corpus.jsonl line 3",
            "doc_id": "ada",
            "num_matches": 1,
            "num_ngrams": 5,
            "evaluation_set": "quiz.jsonl",
            "ngram": "ada was born in torfield",
        },
    ]
    assert summary["num_kept"] == 2
    assert summary["evaluation_sets"] == [
        {"name": "paloma", "documents": 1, "too_short": 0, "removed": 1},
        {"name": "quiz.jsonl", "documents": 2, "too_short": 1, "removed": 1},
    ]


WORDS = st.lists(st.sampled_from("abc"), max_size=12).map(" ".join)


@given(WORDS, st.lists(WORDS, min_size=1, max_size=4), st.integers(1, 4))
def test_matches_are_those_of_comparing_words(text, texts, n):
    known = np.concatenate([hash_ngrams(words_of(other), n) for other in texts])
    found = np.isin(hash_ngrams(words_of(text), n), known).sum()
    assert found == overlap_by_hand(text, texts, n)


def test_both_thresholds_must_be_reached(tmp_path, evaluation):
    line = Line(
        "corpus line 1", b"", {}, "fox", "the quick brown fox jumps and ran", Source(tmp_path, "corpus")
    )
    sets = collect_sets(evaluation, 3)
    matching = overlap_by_hand(line.text, ["The quick brown fox jumps over the lazy dog"], 3)
    assert (matching, len(words_of(line.text)) - 2) == (3, 5)

    def removes(**thresholds):
        return find_overlap(line, sets, Threshold(ngram=3, **thresholds)) is not None

    assert removes(min_matches=3)
    assert not removes(min_matches=4)
    assert removes(min_share=0.6)
    assert not removes(min_share=0.61)
    assert not removes(min_matches=4, min_share=0.1)


def test_a_folder_of_units_keeps_its_layout_and_the_same_input_gives_the_same_bytes(tmp_path, evaluation):
    place = tmp_path / "units" / "Art,1970-1990" / "train" / "00000.json.gz"
    place.parent.mkdir(parents=True)
    place.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in ROWS).encode()))
    for name in ("one", "two"):
        result = run(
            tmp_path / "units", tmp_path / name, *(f"--against={path}" for path in evaluation), "--ngram", 5
        )
        assert result.exit_code == 0, result.output
    written = [path.relative_to(tmp_path / "one") for path in sorted((tmp_path / "one").rglob("*.gz"))]
    assert [str(path) for path in written] == ["Art,1970-1990/train/00000.json.gz"]
    assert (tmp_path / "one" / written[0]).read_bytes() == (tmp_path / "two" / written[0]).read_bytes()
    with gzip.open(tmp_path / "one" / written[0]) as file:
        assert [json.loads(line)["id"] for line in file] == ["clean", "short"]
    assert "removed" in result.stdout


def test_what_is_no_document_is_counted(tmp_path, evaluation):
    corpus = write_lines(tmp_path / "corpus.jsonl", [*ROWS, {"text": "no id"}, ROWS[0]])
    result = run(corpus, tmp_path / "out", "--against", evaluation[0], "--ngram", 5, "--json")
    assert json.loads(result.stdout)["num_skipped"] == {"duplicate id": 1, "missing id": 1}
    assert "skipped 2 documents" in result.stderr


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--ngram", "9"], "evaluation set 'quiz.jsonl' has no document of 9 words under 'text'"),
        (["--min-share", "1.5"], "--min-share 1.5 between 0 and 1"),
        (["--min-matches", "0"], "must be at least 1"),
        (["--text-key", "body"], "has no document of 13 words under 'body'"),
        (["--ngram", "5", "--against", "missing.jsonl"], "no documents at 'missing.jsonl'"),
    ],
)
def test_a_wrong_option_is_said_in_a_sentence(tmp_path, evaluation, monkeypatch, words, sentence):
    monkeypatch.chdir(tmp_path)
    corpus = write_lines(tmp_path / "corpus.jsonl", ROWS)
    result = run(corpus, "out", "--against", "quiz.jsonl", *words)
    assert result.exit_code != 0
    assert sentence in str(result.exception)
    assert not (tmp_path / "out").exists()


def test_nothing_is_written_over(tmp_path, evaluation):
    corpus = write_lines(tmp_path / "corpus.jsonl", ROWS)
    words = [corpus, tmp_path / "out", "--against", evaluation[0], "--ngram", 5]
    assert run(*words).exit_code == 0
    assert "exists: remove it" in str(run(*words).exception)
    assert run(*words, "--overwrite").exit_code == 0

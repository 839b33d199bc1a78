import gzip
import json
import random
from itertools import combinations, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from model_merge.cli import app
from model_merge.corpus import SPLITS, find_sources
from model_merge.domains import find_domains, read_domain
from model_merge.partition import Unit, cut_evenly, field_name, make_units, split_of
from model_merge.partition_files import Settings, partition


def write_corpus(path, rows):
    text = "".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


def document(number, *, field="Biology", year=1990, words=5):
    return {"id": f"d{number}", "text": " ".join(["word"] * words), "field": field, "year": year}


@pytest.fixture
def corpus(tmp_path):
    draw = random.Random(7)
    rows = [
        document(
            i, field=draw.choice(["Biology", "Biology", "Computer Science"]), year=draw.randint(1970, 1989)
        )
        for i in range(400)
    ]
    return write_corpus(tmp_path / "corpus.jsonl", rows)


def read_units(out):
    """{(unit, split): [lines]} of everything that was written."""
    found = {}
    for path in sorted(out.glob("*/*/*.json.gz")):
        with gzip.open(path, "rb") as file:
            found[path.parent.parent.name, path.parent.name] = file.read().splitlines()
    return found


def run(*words):
    return CliRunner().invoke(app, ["ablate", "partition", *map(str, words)])


def test_every_document_is_in_one_place_with_its_own_line(corpus, tmp_path):
    partition(find_sources(corpus), tmp_path / "units", Settings(num_units=5))
    written = [line for lines in read_units(tmp_path / "units").values() for line in lines]
    assert sorted(written) == sorted(corpus.read_bytes().splitlines())


def test_a_unit_holds_its_field_and_its_years_and_no_other(corpus, tmp_path):
    summary = partition(find_sources(corpus), tmp_path / "units", Settings(num_units=5))
    for (unit, _), lines in read_units(tmp_path / "units").items():
        field, years = unit.split(",")
        first, last = map(int, years.split("-"))
        for row in map(json.loads, lines):
            assert field_name(row["field"]) == field
            assert first <= row["year"] <= last
    assert [unit["field"] for unit in summary["units"]].count("Biology") == 3


def test_the_summary_counts_what_was_written(corpus, tmp_path):
    summary = partition(find_sources(corpus), tmp_path / "units", Settings(num_units=3))
    written = read_units(tmp_path / "units")
    counted = {
        (unit["name"], split): unit["documents"][split] for unit in summary["units"] for split in SPLITS
    }
    assert counted == {place: len(lines) for place, lines in written.items()}
    assert sum(sum(unit["tokens"].values()) for unit in summary["units"]) == 400 * 5
    assert (
        json.loads((tmp_path / "units" / "partition.json").read_text(encoding="utf-8"))["units"]
        == summary["units"]
    )


def test_the_same_corpus_gives_the_same_bytes_in_any_cutting_the_same_splits(corpus, tmp_path):
    for name, units in (("a", 4), ("b", 4), ("c", 2)):
        partition(find_sources(corpus), tmp_path / name, Settings(num_units=units))
    files = [path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file()]
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()

    def validation(name):
        return {
            line
            for (_, split), lines in read_units(tmp_path / name).items()
            if split == "val"
            for line in lines
        }

    assert validation("a") == validation("c") != set()


def test_units_cut_anew_keep_every_documents_split(corpus, tmp_path):
    partition(find_sources(corpus), tmp_path / "fine", Settings(num_units=8, val=0.2, test=0.2))
    summary = partition(find_sources(tmp_path / "fine"), tmp_path / "coarse", Settings(num_units=2, seed=99))
    assert summary["num_skipped"] == {}
    fine, coarse = (read_units(tmp_path / name) for name in ("fine", "coarse"))
    assert {unit for unit, _ in coarse} == {"Biology,1970-1989", "ComputerScience,1970-1989"}
    for split in SPLITS:
        one, other = (
            sorted(line for (_, place), lines in units.items() if place == split for line in lines)
            for units in (fine, coarse)
        )
        assert one == other


def test_a_partition_is_a_folder_of_domains(corpus, tmp_path):
    out = tmp_path / "units"
    summary = partition(find_sources(corpus), out, Settings(num_units=3))
    found = {domain.name: len(read_domain(domain).texts) for domain in find_domains(out, "val")}
    assert found == {unit["name"]: unit["documents"]["val"] for unit in summary["units"]}


def test_what_cannot_be_used_is_counted_and_listed(tmp_path):
    rows = [
        document(1),
        document(1, words=9),
        {"id": "no year", "text": "a text", "field": "Biology"},
        {"id": "empty", "text": " \n", "field": "Biology", "year": 1990},
        {"text": "no id", "field": "Biology", "year": 1990},
        {"id": "no text", "field": "Biology", "year": 1990},
        "{broken\n",
        "[]\n",
        "\n",
        {"id": "no field", "text": "a text", "field": [], "year": "1991-05-01"},
    ]
    corpus = write_corpus(tmp_path / "corpus.jsonl.gz", rows)
    result = run(corpus, tmp_path / "units", "--units", 2)
    assert result.exit_code == 0, result.output
    expected = {
        "bad JSON": 2,
        "duplicate id": 1,
        "empty text": 1,
        "missing id": 1,
        "missing text": 1,
        "missing year": 1,
    }
    summary = json.loads((tmp_path / "units" / "partition.json").read_text(encoding="utf-8"))
    assert summary["num_skipped"] == expected
    assert "skipped 7 documents" in result.stderr
    listing = (tmp_path / "units" / "skipped.jsonl").read_text(encoding="utf-8")
    listed = [json.loads(line) for line in listing.splitlines()]
    assert [entry["place"] for entry in listed] == [
        f"corpus.jsonl.gz line {n}" for n in (2, 3, 4, 5, 6, 7, 8)
    ]
    assert [unit["name"] for unit in summary["units"]] == ["Biology,1990-1990", "NA,1991-1991"]


def test_keys_lead_into_objects_and_lists(tmp_path):
    rows = [
        {"paper": {"id": i, "n": 100, "year": 2000 + i, "fos": ["Political Science", "Law"]}, "body": "text"}
        for i in range(2)
    ]
    corpus = write_corpus(tmp_path / "corpus.jsonl", rows)
    result = run(
        corpus, tmp_path / "units", "--unit-tokens", 100, "--id-key", "paper.id", "--text-key", "body",
        "--year-key", "paper.year", "--field-key", "paper.fos", "--tokens-key", "paper.n", "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    names = [unit["name"] for unit in json.loads(result.stdout)["units"]]
    assert names == ["PoliticalScience,2000-2000", "PoliticalScience,2001-2001"]


def test_zst_is_read_as_gz_is(corpus, tmp_path):
    pa = pytest.importorskip("pyarrow")
    with pa.output_stream(str(tmp_path / "corpus.jsonl.zst"), compression="zstd") as file:
        file.write(corpus.read_bytes())
    for name in ("corpus.jsonl", "corpus.jsonl.zst"):
        partition(find_sources(tmp_path / name), tmp_path / f"units of {name}", Settings(num_units=4))
    assert read_units(tmp_path / "units of corpus.jsonl") == read_units(
        tmp_path / "units of corpus.jsonl.zst"
    )


@given(st.lists(st.integers(0, 20), min_size=1, max_size=9), st.data())
def test_no_other_cutting_has_a_smaller_largest_part(sizes, data):
    parts = data.draw(st.integers(1, len(sizes)))
    cuts = cut_evenly(sizes, parts)
    assert [cuts[0][0], cuts[-1][1]] == [0, len(sizes)]
    assert all(before[1] == after[0] for before, after in pairwise(cuts))
    assert all(first < last for first, last in cuts)
    assert len(cuts) == parts
    every = (pairwise([0, *inner, len(sizes)]) for inner in combinations(range(1, len(sizes)), parts - 1))
    best = min(max(sum(sizes[a:b]) for a, b in cutting) for cutting in every)
    assert max(sum(sizes[first:last]) for first, last in cuts) == best


def test_a_field_gets_units_in_proportion_to_its_tokens():
    sizes = {("Art", (1970, 1970)): 10} | {("Biology", (year, year)): 10 for year in range(1970, 1980)}
    units = make_units(sizes, unit_tokens=25)
    assert sorted(set(units.values()), key=lambda unit: unit.name) == [
        Unit("Art", 1970, 1970),
        Unit("Biology", 1970, 1971),
        Unit("Biology", 1972, 1973),
        Unit("Biology", 1974, 1976),
        Unit("Biology", 1977, 1979),
    ]


def test_about_the_asked_share_of_ids_is_held_out_and_the_seed_changes_which():
    ids = [f"doc-{i}" for i in range(20_000)]
    splits = [split_of(doc_id, val=0.1, test=0.2) for doc_id in ids]
    assert splits.count("val") / len(ids) == pytest.approx(0.1, abs=0.01)  # five standard deviations
    assert splits.count("test") / len(ids) == pytest.approx(0.2, abs=0.015)
    assert splits != [split_of(doc_id, val=0.1, test=0.2, seed=1) for doc_id in ids]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--units", 1], "--units 1: the corpus has 2 fields with 40 years among them"),
        (["--units", 41], "so between 2 and 40 units are possible"),
        ([], "give exactly one of --units and --unit-tokens"),
        (["--units", 2, "--unit-tokens", 9], "give exactly one of --units and --unit-tokens"),
        (["--units", 2, "--val", 0.5, "--test", 0.5], "leave something to train on"),
        (["--units", 2, "--year-key", "yaer"], "no document has an id, a text and a year"),
        (["--units", 2, "--tokens-key", "n"], "no document has an id, a text and a year"),
    ],
)
def test_a_wrong_option_is_said_in_a_sentence(corpus, tmp_path, words, sentence):
    result = run(corpus, tmp_path / "units", *words)
    assert result.exit_code != 0
    assert sentence in str(result.exception)
    assert not (tmp_path / "units").exists()


def test_two_spellings_of_a_field_are_refused():
    with pytest.raises(ValueError, match="fields 'Computer science' and 'ComputerScience' would share"):
        make_units({("Computer science", (1, 1)): 1, ("ComputerScience", (1, 1)): 1}, num_units=2)


def test_nothing_is_written_over(corpus, tmp_path):
    out = tmp_path / "units"
    assert run(corpus, out, "--units", 2).exit_code == 0
    assert "exists: remove it" in str(run(corpus, out, "--units", 2).exception)
    assert run(corpus, out, "--units", 3, "--overwrite").exit_code == 0
    assert len(read_units(out)) == 9
    foreign = tmp_path / "mine"
    foreign.mkdir()
    (foreign / "thesis.tex").write_text("!", encoding="utf-8")
    assert "has no partition.json" in str(run(corpus, foreign, "--units", 2, "--overwrite").exception)


def test_a_damaged_or_absent_file_is_an_error(corpus, tmp_path):
    cut = tmp_path / "cut.jsonl.gz"
    cut.write_bytes(gzip.compress(corpus.read_bytes())[:-20])
    assert "is damaged or cut off" in str(run(cut, tmp_path / "units", "--units", 2).exception)
    assert "no documents at" in str(run(tmp_path / "nothing", tmp_path / "units", "--units", 2).exception)
    other = tmp_path / "corpus.csv"
    other.write_text("a,b", encoding="utf-8")
    assert "is no .jsonl" in str(run(other, tmp_path / "units", "--units", 2).exception)
    (tmp_path / "empty").mkdir()
    nothing = run(tmp_path / "empty", tmp_path / "units", "--units", 2)
    assert "no .jsonl, .json or .ndjson files" in str(nothing.exception)

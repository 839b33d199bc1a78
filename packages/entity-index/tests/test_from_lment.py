"""An index of what LMEnt published equals that of the chunk store imported from it."""

import csv
import gzip
import io
import json
import re
import uuid
from itertools import pairwise

import numpy as np
import pytest

from chunk_provenance import FormatError
from chunk_provenance.published.lment_dataset import open_lment
from chunk_provenance.published.lment_store import import_lment
from chunk_provenance.tokenizing import TextEncoder, train_tokenizer
from entity_index import Entity, Phrase, Query, Thresholds, build_index, cli, open_index
from entity_index.backend import open_backend
from entity_index.build import build_from
from entity_index.from_lment import describe_found, lment_input, lment_source, open_published

ADA = "東京 was far. Ada met Bob in Bath. She met him again, and Ada ran home with Bob to Bath at last."
BOB = "Bob ran home. " * 6


def cut(length):
    """LMEnt's chunks of 4 to 16 tokens: full ones, then the set bits of the rest; the tail is lost."""
    sizes = [16] * (length // 16) + [bit for bit in (8, 4) if length % 16 & bit]
    return list(pairwise(np.cumsum([0, *sizes]).tolist()))


def entity(text, start, surface, *candidates):
    names = ("hyperlinks", "entity_linking", "coref", "coref_cluster")
    start = text.index(surface, start)
    return {
        "char_start": start,
        "char_end": start + len(surface),
        "text_mention": surface,
        "candidates": [
            {
                "qid": qid,
                "name": name,
                "scores_by_source": dict(zip(names, scores, strict=True)),
                "aggregated_score": round(min(1.0, float(np.dot((0.4, 0.3, 0.2, 0.1), scores))), 2),
            }
            for qid, name, scores in candidates
        ],
    }


@pytest.fixture
def tokenizer(tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text(train_tokenizer([ADA, BOB], vocab_size=300), encoding="utf-8")
    return path


@pytest.fixture
def documents():
    """Two shards. Scores as LMEnt has them, one above 1; a mention with two candidates, one without any."""
    ada = [
        entity(ADA, 0, "Ada", ("Q7259", "Ada Lovelace", (1.0, 0.9, 0.0, 0.0))),
        entity(ADA, 0, "Bob", ("Q5", "", (0.0, 0.5, 0, 0)), ("Q6", "Bobby", (0, 0.9, 1.26, 0))),
        entity(ADA, 0, "東京", ("Q1490", "Tokyo", (1.0, 0, 0, 0))),
        entity(ADA, 0, "She", ("Q7259", "Ada Lovelace", (0, 0, 0, 0.75))),
        entity(ADA, 0, "him"),
        entity(ADA, 40, "Bath", ("Q22889", "Bath", (0, 0.61, 0, 0))),
    ]
    bob = [entity(BOB, start, "Bob", ("Q6", "Bobby", (0, 0.8, 0, 0))) for start in range(0, 70, 14)]
    return [("12", "Ada", ADA, ada), ("7", "Bob", BOB, bob)], [("8", "Bob again", BOB + ADA, bob)]


@pytest.fixture
def write_lment(tmp_path, tokenizer):
    """Write shards of documents in LMEnt's layout; returns the folder."""
    encoder = TextEncoder(tokenizer.read_text(encoding="utf-8"))

    def write(*shards, change_line=lambda line: line):
        folder = tmp_path / "LMEnt-Dataset"
        places = ("dataset-tokenized", "dataset-cache/dataset-common", "dataset-metadata")
        for place in places:
            (folder / place).mkdir(parents=True)
        for number, documents in enumerate(shards):
            ids, borders, lines = [], [], []
            for place, (doc_id, title, text, entities) in enumerate(documents):
                encoded = encoder.encode([text])
                spans = [encoded.char_start[:-1].tolist(), encoded.char_end[:-1].tolist()]
                start, end = len(ids), len(ids) + len(encoded.ids)
                pairs = list(zip(*spans, strict=True))
                line = io.StringIO(newline="")
                csv.writer(line).writerow(
                    [start, end, doc_id, "p.json", place, title, json.dumps(entities), pairs]
                )
                lines.append(change_line(line.getvalue()))
                ids += encoded.ids.tolist()
                borders += [[start + first, start + last] for first, last in cut(len(encoded.ids))]
            name = f"part-{number}-00000"
            np.array(ids, dtype="<u4").tofile(folder / places[0] / f"{name}.npy")
            np.array(borders, dtype="<u4").tofile(folder / places[1] / f"bucketed-doc-indices-{name}.npy")
            content = gzip.compress("".join(lines).encode(), mtime=0)
            (folder / places[2] / f"{name}.csv.gz").write_bytes(content)
        return folder

    return write


def answers(index):
    """All that can be asked of an index, but for rows and ids of documents."""
    chunks = range(index.num_chunks)
    return {
        "entities": list(index.entities),
        "texts": [(index.chunk(i).text, index.chunk(i).title, index.chunk(i).doc_id) for i in chunks],
        "mentions": [index.mentions_of(i) for i in chunks],
        "hits": [index.search(Query(Entity(entity), limit=None)) for entity in index.entities],
        "names": [index.names_of(entity) for entity in index.entities],
        "counts": index.chunk_counts(Thresholds(entity_linking=0.9)).tolist(),
        "phrase": index.search(Query(Phrase("ran home"), limit=None)),
    }


def test_it_equals_the_index_of_the_imported_store(tmp_path, write_lment, documents, tokenizer):
    folder = write_lment(*documents)
    encoder = TextEncoder(tokenizer.read_text(encoding="utf-8"))
    import_lment(open_lment(folder), tmp_path / "store", encoder=encoder, min_length=4)
    build_index(tmp_path / "store", tmp_path / "of_store")
    published = open_published(folder, tokenizer)
    build_from(lment_input(published), tmp_path / "index")
    index = open_index(tmp_path / "index")
    assert answers(index) == answers(open_index(tmp_path / "of_store"))
    assert index.count(Entity("Q6")) > 3
    assert max(m.coref for i in range(index.num_chunks) for m in index.mentions_of(i)) == np.float32(1.26)
    assert not describe_found(published.found)


def test_other_backends_get_the_same_chunks(write_lment, documents, tokenizer):
    folder = write_lment(*documents)
    source = lment_source(open_published(folder, tokenizer))
    batches = list(source.stream())
    chunk_ids = np.concatenate([batch.chunk_ids for batch in batches])
    assert chunk_ids.tolist() == list(range(source.num_chunks))
    rows = np.concatenate([batch.mentions["row"].to_numpy() for batch in batches])
    assert rows.tolist() == list(range(len(rows)))
    last = batches[-1]
    lengths = [len(TextEncoder(tokenizer.read_text("utf-8")).encode([text]).ids) for text in [BOB + ADA]]
    assert (last.doc_token_start[-1], last.doc_token_end[-1]) == (0, lengths[0])
    assert {batch.doc_sources[0] for batch in batches} == {"p.json"}


def test_a_stopped_build_goes_on_with_the_shard_it_was_in(
    tmp_path, write_lment, documents, tokenizer, monkeypatch
):
    monkeypatch.setattr("entity_index.build.SMALLEST_PIECE", 2)
    monkeypatch.setattr("entity_index.build.LARGEST_PIECE", 2)
    monkeypatch.setattr("entity_index.from_lment.BATCH_TOKENS", 1)
    folder = write_lment(*documents)
    build_from(lment_input(open_published(folder, tokenizer)), tmp_path / "whole")
    first_of_second = int(open_lment(folder).first_chunks[1])

    def stop(what, done, total):
        if done > first_of_second:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_from(lment_input(open_published(folder, tokenizer)), tmp_path / "index", progress=stop)
    seen = []
    build_from(
        lment_input(open_published(folder, tokenizer)),
        tmp_path / "index",
        progress=lambda what, done, total: seen.append(done),
    )
    assert seen[0] > first_of_second
    assert answers(open_index(tmp_path / "index")) == answers(open_index(tmp_path / "whole"))
    for file in (tmp_path / "whole").glob("*.*"):
        if file.is_file():
            assert (tmp_path / "index" / file.name).read_bytes() == file.read_bytes()


def test_a_broken_line_costs_its_mentions_and_is_told(tmp_path, write_lment, documents, tokenizer):
    folder = write_lment(*documents, change_line=lambda line: line if ",8,p.json" in line else "broken\r\n")
    published = open_published(folder, tokenizer)
    build_from(lment_input(published), tmp_path / "index")
    index = open_index(tmp_path / "index")
    assert list(index.entities) == ["Q6"]
    assert index.chunk(0).text.startswith("東京")
    assert describe_found(published.found) == [
        "2 lines of the CSV could not be used: their documents have no title and no mentions",
        "2 documents have no usable line of the CSV",
    ]


def test_other_offsets_than_those_of_the_tokens_cost_the_mentions(
    tmp_path, write_lment, documents, tokenizer
):
    folder = write_lment(*documents, change_line=lambda line: re.sub(r"\d+(?=\)\])", "999", line))
    published = open_published(folder, tokenizer)
    build_from(lment_input(published), tmp_path / "index")
    assert list(open_index(tmp_path / "index").entities) == []
    assert published.found["other_offsets"] == 3


def test_another_tokenizer_is_refused(tmp_path, write_lment, documents):
    folder = write_lment(*documents)
    (tmp_path / "other.json").write_text(train_tokenizer(["x"], vocab_size=258), encoding="utf-8")
    with pytest.raises(FormatError, match="are not of this tokenizer"):
        build_from(lment_input(open_published(folder, tmp_path / "other.json")), tmp_path / "index")
    assert not list(tmp_path.glob("index*"))


def test_a_missing_csv_is_refused_before_anything_is_built(tmp_path, write_lment, documents, tokenizer):
    folder = write_lment(*documents)
    (folder / "dataset-metadata" / "part-1-00000.csv.gz").unlink()
    with pytest.raises(FileNotFoundError, match=r"no part-1-00000\.csv\.gz in .*: it holds the mentions"):
        open_published(folder, tokenizer)


@pytest.fixture
def run_cli(monkeypatch, capsys):
    """Runs the command line in this process: exit code, standard output, standard error."""

    def run(*words):
        monkeypatch.setattr("sys.argv", ["entity-index", *map(str, words)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        captured = capsys.readouterr()
        return stopped.value.code or 0, captured.out, captured.err

    return run


def test_the_command_builds_it_and_tells_what_was_amiss(tmp_path, write_lment, documents, tokenizer, run_cli):
    folder = write_lment(*documents, change_line=lambda line: line if ",8,p.json" in line else "broken\r\n")
    words = ["build", "--from-lment", folder, "--tokenizer", tokenizer, tmp_path / "index"]
    code, out, err = run_cli(*words)
    assert (code, out) == (0, "")
    assert "index built in" in err
    assert "2 lines of the CSV could not be used" in err
    assert open_index(tmp_path / "index").count(Entity("Q6")) == 2
    code, _, err = run_cli(*words)
    assert (code, "is up to date" in err) == (0, True)


def test_a_dry_run_tells_what_it_will_take_and_writes_nothing(
    tmp_path, write_lment, documents, tokenizer, run_cli
):
    folder = write_lment(*documents)
    words = ["build", "--from-lment", folder, "--tokenizer", tokenizer, tmp_path / "index", "--dry-run"]
    code, out, _ = run_cli(*words)
    num_chunks = open_lment(folder).num_chunks
    assert code == 0
    assert re.match(rf"about \d+ mentions in {num_chunks} chunks\ndisk .*\nmemory .*\ntime .*\n$", out)
    assert not list(tmp_path.glob("index*"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--from-lment", "{lment}", "index"], "--from-lment needs --tokenizer"),
        (["store", "index", "--tokenizer", "{tokenizer}"], "--tokenizer goes with --from-lment"),
        (["--from-lment", "{lment}", "--tokenizer", "{tokenizer}", "a", "b"], "either STORE or --from-lment"),
        (["--from-lment", "{lment}", "--tokenizer", "{tokenizer}"], "nowhere to write to"),
        (["--from-lment", "nowhere", "--tokenizer", "{tokenizer}", "index"], "no LMEnt dataset at"),
        (["--from-lment", "{lment}", "--tokenizer", "nowhere", "index"], "no tokenizer at"),
        ([], "nowhere to write to"),
        (["--dry-run"], "nothing to build from"),
    ],
)
def test_wrong_use_is_one_sentence(
    tmp_path, write_lment, documents, tokenizer, run_cli, monkeypatch, words, message
):
    monkeypatch.chdir(tmp_path)
    names = {"lment": write_lment(*documents), "tokenizer": tokenizer}
    code, out, err = run_cli("build", *(word.format(**names) for word in words))
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err


@pytest.mark.slow
def test_a_server_gets_all_of_it_and_answers_as_the_folder(
    tmp_path, write_lment, documents, tokenizer, elasticsearch_url, run_cli
):
    pytest.importorskip("elasticsearch", reason="the extra elasticsearch is not installed")
    folder, name = write_lment(*documents), f"lment-{uuid.uuid4().hex[:12]}"
    words = ["build", "--from-lment", folder, "--tokenizer", tokenizer]
    server = ["--elasticsearch", elasticsearch_url, "--index", name]
    dry = run_cli(*words, *server, "--dry-run")
    assert dry[0] == 0
    assert re.match(r"\d+ chunks, about \d+ mentions\ndisk on the server: about 0.1 GB", dry[1])
    assert run_cli(*words, *server)[0] == 0
    assert run_cli(*words, tmp_path / "index")[0] == 0
    embedded, elastic = open_index(tmp_path / "index"), open_backend(f"{elasticsearch_url}/{name}")
    assert {**answers(elastic), "phrase": None} == {**answers(embedded), "phrase": None}
    hits = [index.search(Query(Phrase("ran home"), limit=None)).hits for index in (elastic, embedded)]
    assert {hit.chunk_id: hit.phrases for hit in hits[0]} == {hit.chunk_id: hit.phrases for hit in hits[1]}

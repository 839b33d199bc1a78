"""LMEnt's dataset made an ordinary chunk store."""

import gzip

import numpy as np
import pyarrow.compute as pc
import pytest

from chunk_provenance import FormatError, open_store
from chunk_provenance.published.lment_dataset import open_lment
from chunk_provenance.published.lment_store import OTHER_OFFSETS, SHORT_TAIL, import_lment
from chunk_provenance.tokenizing import TextEncoder, train_tokenizer

EOS = 0


@pytest.fixture
def encoder(tokenizer_json):
    return TextEncoder(tokenizer_json)


@pytest.fixture
def documents(lment_entity):
    """Two documents; 'Bob' is certain, 'She' is not, 東京 is split over several tokens."""
    text = "東京 was far. Ada met Bob in Bath. She met him again."
    ada = [
        lment_entity(text.index("Ada"), "Ada", ("Q7259", "Ada Lovelace", (1.0, 0.9, 0.0, 0.0))),
        lment_entity(text.index("Bob"), "Bob", ("Q5", "", (0.0, 0.5, 0, 0)), ("Q6", "Bobby", (0, 0.9, 0, 0))),
        lment_entity(text.index("東京"), "東京", ("Q1490", "Tokyo", (1.0, 0, 0, 0))),
        lment_entity(text.index("She"), "She"),
        lment_entity(500, "beyond", ("Q9", "x", (1.0, 0, 0, 0))),
    ]
    return [("12", "Ada", text, ada), ("7", "Bob", "Bob ran home.", [])]


def read(dataset, path, encoder, **options):
    import_lment(dataset, path, encoder=encoder, min_length=4, **options)
    return open_store(path)


def test_chunks_keep_their_ids_tokens_and_text(tmp_path, write_lment, encoder, documents):
    dataset = open_lment(write_lment(documents, [("8", "Bath", "Bath. " * 30, [])]))
    store = read(dataset, tmp_path / "store", encoder)
    assert store.num_chunks == dataset.num_chunks
    texts = []
    for chunk in range(store.num_chunks):
        assert np.array_equal(store.chunk_tokens(chunk), dataset.chunk_tokens(chunk))
        assert store.length[chunk] <= store.bucket[chunk] < 2 * store.length[chunk]
        texts.append(store.chunk_text(chunk))
    assert documents[0][2].startswith("".join(texts[: len(store.chunks_of_document("12"))]))
    assert store.document("12").text == documents[0][2]
    assert (store.document("7").title, store.document("7").source) == ("Bob", "pages.json.gz")
    assert store.meta["lment"]["sha256"] == dataset.sha256


def test_every_character_of_a_document_is_in_a_chunk_or_listed_as_left_out(
    tmp_path, write_lment, encoder, documents
):
    dataset = open_lment(write_lment(documents, [("8", "Bath", "Bath. " * 30, [])]))
    store = read(dataset, tmp_path / "store", encoder)
    for doc_id in ("12", "7", "8"):
        parts = [row for row in store.segment_table.to_pylist() if row["doc_id"] == doc_id]
        parts += [row for row in store.dropped_table.to_pylist() if row["doc_id"] == doc_id]
        text = store.document(doc_id).text
        covered = {place for row in parts for place in range(row["char_start"], row["char_end"])}
        assert covered == set(range(len(text)))
    lengths = sum(len(shard.tokens) for shard in dataset.shards)
    assert len(store.tokens) + pc.sum(store.dropped_table["num_tokens"]).as_py() == lengths
    assert set(store.dropped_table["reason"].to_pylist()) == {SHORT_TAIL}


def test_mentions_stand_in_the_chunk_that_holds_all_of_them(tmp_path, write_lment, encoder, documents):
    store = read(open_lment(write_lment(documents, shortest=1, longest=32)), tmp_path / "store", encoder)
    found = store.mention_table.to_pylist()
    assert [(row["surface"], row["entity"], row["name"]) for row in found] == [
        ("東京", "Q1490", "Tokyo"),
        ("Ada", "Q7259", "Ada Lovelace"),
        ("Bob", "Q6", "Bobby"),
        ("Bob", "Q5", None),
        ("She", None, None),
    ]
    for row in found:
        text = store.chunk_text(row["chunk_id"])
        assert text[row["char_start"] : row["char_end"]] == row["surface"]
        tokens = store.chunk_tokens(row["chunk_id"])[row["token_start"] : row["token_end"]]
        decoded, _ = encoder.decode(np.array([*tokens, EOS]), np.array([0, len(tokens) + 1]))
        assert row["surface"] in decoded[0]
    assert found[2]["score"] == pytest.approx(0.27)
    assert (found[2]["hyperlink"], found[2]["entity_linking"]) == (0.0, pytest.approx(0.9))
    assert store.meta["mentions"] == {
        "in_chunks": 5,
        "cut_by_a_border": 0,
        "in_dropped_text": 0,
        "out_of_range": 1,
    }


def test_a_mention_that_a_chunk_border_cuts_is_left_out_and_counted(
    tmp_path, write_lment, encoder, lment_entity
):
    text = "Ada met Bob in Bath. She met him again."
    all_of_it = [lment_entity(0, text, ("Q1", "all", (1.0, 0, 0, 0)))]
    store = read(
        open_lment(write_lment([("1", "T", text, all_of_it)], longest=8)), tmp_path / "store", encoder
    )
    assert store.num_chunks > 1
    assert store.mention_table.num_rows == 0
    assert store.meta["mentions"]["in_chunks"] == 0
    assert store.meta["mentions"]["cut_by_a_border"] == 1


@pytest.mark.parametrize("batch_tokens", [1, 40])
def test_the_store_does_not_depend_on_how_much_is_held_in_memory(
    tmp_path, write_lment, encoder, documents, batch_tokens
):
    dataset = open_lment(write_lment(documents, [("8", "Bath", "Bath. " * 30, [])]))
    whole = read(dataset, tmp_path / "whole", encoder)
    pieces = read(dataset, tmp_path / "pieces", encoder, batch_tokens=batch_tokens)
    assert pieces.meta == whole.meta


def test_lines_that_are_broken_are_listed_and_their_text_is_kept(tmp_path, write_lment, encoder, documents):
    folder = write_lment(documents, packed=False)
    whole = read(open_lment(folder), tmp_path / "whole", encoder)
    file = folder / "dataset-metadata" / "part-0-00000.csv"
    ada, bob, _ = file.read_bytes().split(b"\r\n")
    file.write_bytes(ada[:-30] + b"\r\n" + bob)
    store = read(open_lment(folder), tmp_path / "store", encoder)
    assert [store.chunk_text(i) for i in range(store.num_chunks)] == [
        whole.chunk_text(i) for i in range(whole.num_chunks)
    ]
    assert store.document("part-0-00000:0").text == documents[0][2]
    broken = [row for row in store.dropped_table.to_pylist() if row["place"]]
    assert [(row["place"], row["reason"]) for row in broken] == [
        ("part-0-00000.csv:1", "no line of eight columns")
    ]
    counted = {name: store.meta["lment"][name] for name in ("bad_lines", "documents_without_line")}
    assert counted == {"bad_lines": 1, "documents_without_line": 1}


def test_a_second_document_of_an_id_is_kept_under_another_and_listed(
    tmp_path, write_lment, encoder, documents
):
    again = ("12", "Again", "東京 ran home.", [documents[0][3][2]])
    store = read(open_lment(write_lment([*documents, again], longest=8)), tmp_path / "store", encoder)
    chunk = int(store.chunks_of_document("7").max()) + 1
    assert store.document(f"12:{chunk}").text == "東京 ran home."
    assert {row["reason"] for row in store.dropped_table.to_pylist() if row["place"]} == {"duplicate id"}
    assert f"12:{chunk}" in store.mention_table["doc_id"].to_pylist()


def test_mentions_of_a_line_with_other_offsets_are_left_out_and_listed(
    tmp_path, write_lment, encoder, documents
):
    folder = write_lment(documents, packed=False)
    file = folder / "dataset-metadata" / "part-0-00000.csv"
    file.write_bytes(file.read_bytes().replace(b', 51)]"', b', 52)]"', 1))
    store = read(open_lment(folder), tmp_path / "store", encoder)
    assert store.mention_table.num_rows == 0
    assert store.meta["lment"]["other_offsets"] == 1
    assert OTHER_OFFSETS in store.dropped_table["reason"].to_pylist()


def test_chunks_too_short_to_be_trained_are_counted(tmp_path, write_lment, encoder, documents):
    dataset = open_lment(write_lment(documents, shortest=1, longest=8))
    short = int((dataset.lengths <= 2).sum())
    assert short > 0
    assert read(dataset, tmp_path / "store", encoder).meta["lment"]["never_trained"] == short


def test_another_tokenizer_is_refused(tmp_path, write_lment, documents):
    dataset = open_lment(write_lment(documents))
    other = TextEncoder(train_tokenizer(["zzz"], vocab_size=259))
    with pytest.raises(FormatError, match=r"are not of this tokenizer \(the tokenizer has 25\d tokens"):
        import_lment(dataset, tmp_path / "store", encoder=other)
    assert not (tmp_path / "store").exists()


def test_a_csv_of_fewer_shards_is_refused(tmp_path, write_lment, encoder, documents):
    folder = write_lment(documents, documents)
    (folder / "dataset-metadata" / "part-1-00000.csv.gz").unlink()
    with pytest.raises(FileNotFoundError, match=r"no part-1-00000\.csv\.gz"):
        import_lment(open_lment(folder), tmp_path / "store", encoder=encoder)
    assert list(tmp_path.glob("store*")) == []


def test_a_csv_that_is_cut_off_leaves_no_store(tmp_path, write_lment, encoder):
    folder = write_lment([(str(i), f"Title {i}", f"Ada met Bob {i} times.", []) for i in range(300)])
    file = folder / "dataset-metadata" / "part-0-00000.csv.gz"
    file.write_bytes(gzip.compress(gzip.decompress(file.read_bytes()), mtime=0)[:-100])
    with pytest.raises(FormatError, match="is cut off or damaged after line"):
        import_lment(open_lment(folder), tmp_path / "store", encoder=encoder)
    assert list(tmp_path.glob("store*")) == []

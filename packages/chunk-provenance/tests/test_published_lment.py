"""LMEnt's dataset: tokens, chunks, and documents streamed from its CSV."""

import gzip
import json
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chunk_provenance import FormatError
from chunk_provenance.documents import Rejected
from chunk_provenance.published.lment_csv import parse_line, parse_offsets, read_lment_csv
from chunk_provenance.published.lment_dataset import open_lment
from chunk_provenance.published.lment_documents import LMEntDocument, chunk_entities, stream_documents

VSL = Path(__file__).parent / "golden" / "lment_data" / "vsl"
EOS = 0  # of the tests' tokenizer: <|endoftext|>
ADA = ("7259", 'Lovelace, "Ada"', "Ada met Bob in Bath. She met him again.", [])
BOB = ("5", "Bob", "Bob ran home. 東京 Bath.", [])
LONG = ("9", "Long\tone", "Ada ran. Bob ran. Ada met Bob at home in Bath again and again.", [])


@pytest.fixture(scope="module")
def golden():
    return dict(np.load(VSL / "kas_vsl.npz"))


@pytest.fixture(scope="module")
def described():
    return json.loads((VSL / "kas_vsl.json").read_text(encoding="utf-8"))


def write_golden(folder, golden, described):
    """The golden dataset in its layout, with offsets that put its mentions where they are."""
    for place in ("dataset-tokenized", "dataset-cache/dataset-common", "dataset-metadata"):
        (folder / place).mkdir(parents=True)
    cache = folder / "dataset-cache" / f"dataset-{described['fingerprint']}"
    cache.mkdir()
    golden["instance_lengths"].astype("<u1").tofile(cache / "instance-lengths.npy")
    for length in (8, 16, 32, 64):
        golden[f"bucket{length}"].astype("<u4").tofile(cache / f"bucket{length}-indices.npy")
    for part in (0, 1):
        name = f"part-{part}-00000"
        golden[f"tokens_part{part}"].astype("<u4").tofile(folder / "dataset-tokenized" / f"{name}.npy")
        borders = golden["chunks"][golden["chunks"][:, 0] == part, 1:3].astype("<u4")
        borders.tofile(folder / "dataset-cache/dataset-common" / f"bucketed-doc-indices-{name}.npy")
        lines = [golden_line(golden, row) for row in golden["docs"][golden["docs"][:, 0] == part]]
        with gzip.open(
            folder / "dataset-metadata" / f"{name}.csv.gz", "wt", encoding="utf-8", newline=""
        ) as file:
            file.writelines(lines)
    return folder


def golden_line(golden, document):
    """A line of the CSV. Tokens between mentions have any characters, those of mentions their own."""
    part, number, start, end = document.tolist()
    of_document = (golden["entities"][:, :2] == document[:2]).all(axis=1)
    mentions = golden["entities"][of_document, 2:].tolist()
    ends = sorted({(0, 0), *((t, c) for t0, t1, c0, c1 in mentions for t, c in ((t0, c0), (t1, c1)))})
    known_tokens, known_chars = zip(*ends, strict=True)
    tokens = np.arange(end - start)
    border = np.interp(tokens, known_tokens, known_chars) + 5.0 * np.maximum(tokens - known_tokens[-1], 0)
    pairs = str(list(zip(border[:-1].astype(int).tolist(), border[1:].astype(int).tolist(), strict=True)))
    entities = [
        {"char_start": c0, "char_end": c1, "text_mention": f"m{t0}_{t1}", "candidates": [], "tok_start": t0}
        for t0, t1, c0, c1 in mentions
    ]
    quoted = json.dumps(entities).replace('"', '""')
    source = f"/synthetic/src_{part}.json"
    return f'{start},{end},{1000 + number},{source},{number},Title {number},"{quoted}","{pairs}"\r\n'


def test_chunks_of_lments_code_are_found_by_their_id(tmp_path, golden, described):
    dataset = open_lment(write_golden(tmp_path, golden, described))
    assert dataset.num_chunks == 1782
    assert dataset.first_chunks.tolist() == [0, 1023, 1782]
    assert dataset.lengths.tolist() == golden["instance_lengths"].tolist()
    for chunk in (0, 1022, 1023, 1781):
        part, start, end, _ = golden["chunks"][chunk].tolist()
        assert dataset.chunk_place(chunk) == (part, start, end)
        assert dataset.chunk_tokens(chunk).tolist() == golden[f"tokens_part{part}"][start:end].tolist()
    with pytest.raises(ValueError, match=r"no chunk 1782 in .*: it has 0 to 1781"):
        dataset.chunk_tokens(1782)


def test_the_buckets_and_the_fingerprint_are_those_of_lments_code(tmp_path, golden, described):
    dataset = open_lment(write_golden(tmp_path, golden, described))
    buckets = dataset.read_buckets()
    assert {length: ids.tolist() for length, ids in buckets.items()} == {
        length: golden[f"bucket{length}"].tolist() for length in (8, 16, 32, 64)
    }
    assert dataset.fingerprint(min_length=8, max_length=64, pad_id=0, eos_id=1) == described["fingerprint"]


def test_the_documents_hold_the_chunks_and_mentions_that_lments_code_says(tmp_path, golden, described):
    dataset = open_lment(write_golden(tmp_path, golden, described))
    documents = list(stream_documents(dataset, eos_id=1))
    assert [document.row.token_start for document in documents] == golden["docs"][:, 2].tolist()
    first = np.searchsorted(golden["chunks"][:, 3], np.arange(len(documents)))
    assert [document.first_chunk for document in documents] == first.tolist()
    assert sum(len(document.chunks) for document in documents) == 1782
    found = {chunk.chunk_id: chunk for document in documents for chunk in chunk_entities(document)}
    for expected in described["chunk_metadata_first60"]:
        entities = [entity["text_mention"] for entity in found[expected["_chunk_id"]].entities]
        assert entities == [entity["text_mention"] for entity in expected["entities"]]


def test_opening_never_touches_the_csv(write_lment):
    folder = write_lment([ADA], [BOB])
    for file in (folder / "dataset-metadata").iterdir():
        file.unlink()
    dataset = open_lment(folder)
    assert dataset.num_chunks > 2
    with pytest.raises(FileNotFoundError, match=r"no part-0-00000\.csv\.gz"):
        list(stream_documents(dataset, eos_id=EOS))


@pytest.mark.parametrize("packed", [True, False])
def test_documents_come_with_their_tokens_from_packed_and_unpacked_files(write_lment, packed):
    dataset = open_lment(write_lment([ADA, BOB], [LONG], packed=packed))
    documents = list(stream_documents(dataset, eos_id=EOS))
    assert [(d.doc_id, d.title, d.source) for d in documents] == [
        ("7259", 'Lovelace, "Ada"', "pages.json.gz"),
        ("5", "Bob", "pages.json.gz"),
        ("9", "Long\tone", "pages.json.gz"),
    ]
    assert [int(d.tokens[-1]) for d in documents] == [EOS] * 3
    tokens = [shard.tokens for shard in dataset.shards]
    assert np.array_equal(np.concatenate([d.tokens for d in documents]), np.concatenate(tokens))


def chunk_words(dataset):
    """The chunks of all documents, as the stream says."""
    return [
        (document.doc_id, document.first_chunk + number)
        for document in stream_documents(dataset, eos_id=EOS)
        if isinstance(document, LMEntDocument)
        for number in range(len(document.chunks))
    ]


def test_a_line_that_is_broken_costs_its_annotations_and_no_chunk(write_lment):
    folder = write_lment([ADA, BOB, LONG], packed=False)
    dataset = open_lment(folder)
    whole = chunk_words(dataset)
    file = folder / "dataset-metadata" / "part-0-00000.csv"
    lines = file.read_bytes().split(b"\r\n")
    lines[1] = lines[1][: len(lines[1]) // 2]
    file.write_bytes(b"\r\n".join(lines))
    found = list(stream_documents(dataset, eos_id=EOS))
    start = len(found[1 - 1].tokens)
    assert [item for item in found if isinstance(item, Rejected)] == [
        Rejected("part-0-00000.csv:2", "no line of eight columns")
    ]
    named = {"5": f"part-0-00000:{start}"}
    assert chunk_words(dataset) == [(named.get(doc_id, doc_id), chunk) for doc_id, chunk in whole]


def test_several_documents_without_a_line_are_parted_at_their_end_tokens(write_lment):
    folder = write_lment([ADA, BOB, LONG])
    with gzip.open(folder / "dataset-metadata" / "part-0-00000.csv.gz", "w"):
        pass
    found = list(stream_documents(open_lment(folder), eos_id=EOS))
    assert len(found) == 3
    assert [document.row for document in found] == [None] * 3
    assert [int(document.tokens[-1]) for document in found] == [EOS] * 3


def test_a_packed_file_that_is_cut_off_is_refused(write_lment):
    folder = write_lment([(str(i), f"Title {i}", f"Ada met Bob {i} times.", []) for i in range(300)])
    file = folder / "dataset-metadata" / "part-0-00000.csv.gz"
    file.write_bytes(file.read_bytes()[:-400])
    stream = stream_documents(open_lment(folder), eos_id=EOS)
    assert next(stream).doc_id == "0"
    with pytest.raises(FormatError, match=r"part-0-00000\.csv\.gz' is cut off or damaged after line \d+"):
        list(stream)


def test_a_packed_file_with_a_changed_byte_is_refused(write_lment):
    folder = write_lment([(str(i), f"Title {i}", f"Ada met Bob {i} times.", []) for i in range(300)])
    file = folder / "dataset-metadata" / "part-0-00000.csv.gz"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 255
    file.write_bytes(content)
    with pytest.raises(FormatError, match="is cut off or damaged"):
        list(stream_documents(open_lment(folder), eos_id=EOS))


def test_the_csv_of_another_dataset_is_refused(write_lment):
    folder = write_lment([ADA, BOB], packed=False)
    file = folder / "dataset-metadata" / "part-0-00000.csv"
    file.write_text('0,5,7259,x,0,Ada,[],"[(0, 3), (3, 7), (7, 9), (9, 12)]"', encoding="utf-8")
    with pytest.raises(FormatError, match=r"chunk 0 crosses its end: these are not the documents"):
        list(
            stream_documents(
                open_lment(
                    folder,
                ),
                eos_id=EOS,
            )
        )


def test_lines_of_other_tokens_are_listed(write_lment):
    folder = write_lment([ADA, BOB], packed=False)
    dataset = open_lment(folder)
    file = folder / "dataset-metadata" / "part-0-00000.csv"
    ada, bob, _ = file.read_bytes().split(b"\r\n")
    beyond = b'9000,9002,77,x,0,T,[],"[(0, 1)]"'
    file.write_bytes(b"\r\n".join([ada, ada, beyond, bob]))
    found = list(stream_documents(dataset, eos_id=EOS))
    assert [item for item in found if isinstance(item, Rejected)] == [
        Rejected("part-0-00000.csv, id 7259", "tokens of an earlier document", "7259"),
        Rejected("part-0-00000.csv, id 77", "tokens beyond its shard", "77"),
    ]
    assert [item.doc_id for item in found if isinstance(item, LMEntDocument)] == ["7259", "5"]


# What opening refuses


def border_file(folder):
    return folder / "dataset-cache/dataset-common/bucketed-doc-indices-part-0-00000.npy"


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: border_file(folder).unlink(), "no bucketed-doc-indices-part-0-00000"),
        (lambda folder: border_file(folder).write_bytes(bytes(7)), "7 bytes, no 4-byte numbers"),
        (lambda folder: border_file(folder).write_bytes(bytes(12)), "3 numbers, no pairs"),
        (lambda folder: np.array([4, 4], "<u4").tofile(border_file(folder)), "row 0 is 4 to 4"),
        (lambda folder: np.array([0, 9, 8, 12], "<u4").tofile(border_file(folder)), "row 1 is 8 to 12"),
        (lambda folder: np.array([0, 9999], "<u4").tofile(border_file(folder)), "row 0 is 0 to 9999"),
        (
            lambda folder: (folder / "dataset-tokenized/part-0-00000.npy").write_bytes(bytes(5)),
            "5 bytes, no 4-byte numbers",
        ),
        (lambda folder: (folder / "dataset-tokenized/part-0-00000.npy").unlink(), "no LMEnt dataset at"),
    ],
)
def test_damaged_tokens_or_borders_are_refused(write_lment, damage, words):
    folder = write_lment([ADA])
    damage(folder)
    with pytest.raises((FormatError, FileNotFoundError), match=words):
        open_lment(folder)


@pytest.mark.parametrize("dtype", ["<u2", "<u1", "<u4"])
def test_lengths_of_every_type_are_compared_with_the_borders(write_lment, dtype):
    folder = write_lment([("1", "T", "Ada met Bob in Bath. " * 90, [])], shortest=4, longest=256)
    cache = folder / "dataset-cache" / "dataset-0"
    cache.mkdir()
    lengths = open_lment(folder).lengths
    assert lengths.max() == 256  # 0 as a single byte, as LMEnt's loader writes it
    lengths.astype(dtype).tofile(cache / "instance-lengths.npy")
    assert open_lment(folder).lengths.tolist() == lengths.tolist()
    (lengths + np.arange(len(lengths)) // 2).astype(dtype).tofile(cache / "instance-lengths.npy")
    with pytest.raises(FormatError, match=r"says that chunk 2 has \d+ tokens, its borders say"):
        open_lment(folder)
    (cache / "instance-lengths.npy").write_bytes(bytes(5))
    with pytest.raises(FormatError, match="it is cut off or belongs to another dataset"):
        open_lment(folder)


def test_buckets_of_other_chunks_are_refused(tmp_path, golden, described):
    folder = write_golden(tmp_path, golden, described)
    file = folder / "dataset-cache" / f"dataset-{described['fingerprint']}" / "bucket8-indices.npy"
    np.array([2000], dtype="<u4").tofile(file)
    with pytest.raises(FormatError, match="lists the chunk 2000, there are 1,782"):
        open_lment(folder).read_buckets()
    golden["bucket16"].astype("<u4").tofile(file)
    with pytest.raises(FormatError, match=r"lists the chunk \d+ of \d+ tokens"):
        open_lment(folder).read_buckets()


# Lines of the CSV


@given(st.lists(st.tuples(st.integers(0, 99), st.integers(0, 10**6)), max_size=20))
def test_offsets_are_read_as_python_writes_them(steps):
    starts = np.cumsum([step for step, _ in steps], dtype=np.int64).tolist()
    pairs = [(start, start + length) for start, (_, length) in zip(starts, steps, strict=True)]
    assert parse_offsets(str(pairs).encode()).tolist() == [list(pair) for pair in pairs]


@given(st.text("[](), 0123456789\n_-+.x", max_size=24))
def test_anything_else_is_refused_as_offsets(text):
    try:
        value = parse_offsets(text.encode())
    except ValueError:
        return
    assert re.sub(r"\b0+(?=\d)", "", text) == str([tuple(pair) for pair in value.tolist()])


GOOD = b'5,8,12,a.json,0,"Ada, ""L.""",[],"[(0, 3), (3, 9)]"'


def test_quotes_commas_and_characters_of_a_line_come_back():
    line = (
        '0,2,7,a.json,3,"東京, ""x""","[{""char_start"": 0, ""char_end"": 1, ""text_mention"": ""\\u00e9"", \
""candidates"": []}]","[(0, 1)]"\r\n'
    )
    row = parse_line(line.encode())
    assert (row.title, row.doc_id, row.number, row.source) == ('東京, "x"', "7", 3, "a.json")
    assert row.entities == [{"char_start": 0, "char_end": 1, "text_mention": "é", "candidates": []}]


CANDIDATE = {"qid": "Q1", "name": "A", "scores_by_source": {"coref": 0.5}, "aggregated_score": 0.1}


def with_entities(value):
    return GOOD.replace(b"[],", b'"' + json.dumps(value).replace('"', '""').encode() + b'",')


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (GOOD[:-6], "no line of eight columns"),
        (GOOD + b",more", "no line of eight columns"),
        (GOOD.replace(b"a.json,", b""), "no line of eight columns"),
        (b"\r\n", "no line of eight columns"),
        (GOOD.replace(b"5,8", b"5,eight"), "start, end or loc is no number"),
        (GOOD.replace(b"5,8", b"8,5"), "start is not before end"),
        (GOOD.replace(b"5,8", b"-5,8"), "start is not before end"),
        (GOOD.replace(b"12,", b","), "missing id"),
        (GOOD.replace(b"Ada", b"\xff\xfe"), "not UTF-8"),
        (GOOD.replace(b"5,8", b"5,9"), "as many offsets as tokens without the end token are expected"),
        (GOOD.replace(b"(3, 9)", b"(3, 2)"), "offsets do not ascend"),
        (GOOD.replace(b"(3, 9)", b"(3, 9"), "offsets are no list of pairs of numbers"),
        (
            GOOD.replace(b"(3, 9)", b"__import__('os').system('ls')"),
            "offsets are no list of pairs of numbers",
        ),
        (GOOD.replace(b"[],", b"[,"), "entities are no JSON"),
        (GOOD.replace(b"[],", b"[" * 100_000 + b","), "entities are no JSON"),
        (GOOD.replace(b"(3, 9)", b"(3, 9" + b"9" * 300 + b")"), "offsets beyond any text"),
        (GOOD.replace(b"[],", b"{},"), "entities are not as LMEnt writes them"),
        (with_entities([{"char_start": 1}]), "entities are not as LMEnt writes them"),
        (
            with_entities([{"char_start": 0, "char_end": "1", "text_mention": "a", "candidates": []}]),
            "entities are not",
        ),
        (
            with_entities(
                [
                    {
                        "char_start": 0,
                        "char_end": 1,
                        "text_mention": "a",
                        "candidates": [{**CANDIDATE, "qid": 7}],
                    }
                ]
            ),
            "entities are not as LMEnt writes them",
        ),
    ],
)
def test_a_line_that_is_no_document_says_why(tmp_path, line, reason):
    (tmp_path / "part-0-00000.csv").write_bytes(GOOD + b"\r\n" + line)
    good, bad = read_lment_csv(tmp_path / "part-0-00000.csv")
    assert good.title == 'Ada, "L."'
    assert bad.place == "part-0-00000.csv:2"
    assert bad.reason.startswith(reason)


def test_what_lments_tokeniser_as_shipped_writes_is_refused_for_its_entities():
    """Its entities are a Python repr, which LMEnt's own reader cannot read either."""
    line = b'0,3,0,x.json,0,"T, ""0""","[{\'char_start\': 31}]","[(0, 2), (2, 5)]"\r\n'
    with pytest.raises(ValueError, match="entities are no JSON"):
        parse_line(line)

import json
from itertools import chain, repeat

import numpy as np
import pytest

from chunk_provenance import open_store
from chunk_provenance.build import Packing, build_store, differences, is_held_back
from chunk_provenance.documents import Document, Rejected
from chunk_provenance.encoding import encode_documents
from chunk_provenance.mentions import MentionFile
from chunk_provenance.retention import count_retention
from chunk_provenance.tokenizing import TextEncoder

NAMES = {"Ada": "Q1", "Bob": "Q2", "東京": "Q3", "again, and": "Q4"}
DOCUMENTS = [
    Document("d1", "Ada met Bob in Bath. " * 3 + "東京 龍龍龍", "Meeting", "book", "http"),
    Document("d2", "Bob."),
    Document("d3", "She met Ada again, and " * 9 + "Bob ran home."),
]
PACKINGS = [
    Packing("buckets", 4, 16),
    Packing("buckets", 8, 32, "drop"),
    Packing("buckets", 16, 16, "drop"),
    Packing("fixed", max_length=10),
    Packing("fixed", max_length=1000),
]


@pytest.fixture
def build(tmp_path, tokenizer_json):
    """Builds a store and opens it."""
    numbers = iter(range(100))

    def run(documents=DOCUMENTS, *, packing=PACKINGS[0], mentions=None, batch_chars=1 << 20, **options):
        path = tmp_path / f"store{next(numbers)}"
        mention_file = None if mentions is None else MentionFile(mentions)
        encoder = TextEncoder(tokenizer_json)
        batches = encode_documents(documents, encoder, batch_chars=batch_chars)
        build_store(path, batches, encoder=encoder, packing=packing, mentions=mention_file, **options)
        return open_store(path)

    return run


def expected_tokens(tokenizer_json):
    return TextEncoder(tokenizer_json).encode([document.text for document in DOCUMENTS])


@pytest.mark.parametrize("packing", PACKINGS)
def test_kept_and_dropped_tokens_are_all_tokens(build, tokenizer_json, packing):
    store = build(packing=packing)
    encoded = expected_tokens(tokenizer_json)
    found = {document.doc_id: {} for document in DOCUMENTS}
    for segment in store.segment_table.to_pylist():
        length = segment["chunk_token_end"] - segment["chunk_token_start"]
        tokens = store.chunk_tokens(segment["chunk_id"])[segment["chunk_token_start"] :][:length]
        found[segment["doc_id"]].update(enumerate(tokens.tolist(), start=segment["doc_token_start"]))
    for row in store.dropped_table.to_pylist():
        assert row["num_tokens"] == row["doc_token_end"] - row["doc_token_start"]
        found[row["doc_id"]].update(zip(range(row["doc_token_start"], row["doc_token_end"]), repeat(None)))
    for number, document in enumerate(DOCUMENTS):
        ids = encoded.ids[slice(*encoded.doc_bounds[number : number + 2])].tolist()
        assert sorted(found[document.doc_id]) == list(range(len(ids)))
        assert all(token in (ids[i], None) for i, token in found[document.doc_id].items())


@pytest.mark.parametrize("packing", PACKINGS)
def test_segments_name_the_characters_of_their_tokens(build, packing):
    store = build(packing=packing)
    texts = {document.doc_id: document.text for document in DOCUMENTS}
    for chunk in range(store.num_chunks):
        segments = store.segments(chunk)
        assert store.chunk_text(chunk) == "".join(
            texts[s.doc_id][s.char_start : s.char_end] for s in segments
        )
        if packing.kind == "buckets":
            tokens = store.chunk_tokens(chunk)
            decoded = store._tokenizer.decode(tokens[tokens != store.eos_id].tolist())
            assert decoded == store.chunk_text(chunk)
            assert len(segments) == 1
            assert store.length[chunk] <= store.bucket[chunk]
        else:
            assert store.bucket[chunk] == packing.max_length
    if packing.tails == "keep" and packing.kind == "buckets":
        assert "".join(map(store.chunk_text, range(store.num_chunks))) == "".join(texts.values())


def test_no_chunk_begins_inside_a_word(build):
    words = " ".join(f"person{number}naïve" for number in range(60)) + " 東京東京東京東京東京東京"
    store = build([Document("d", words)])
    for chunk in range(1, store.num_chunks):
        begin = store.segments(chunk)[0].char_start
        assert " " in words[begin - 1 : begin + 1] or words[begin] in "東京"


@pytest.mark.parametrize("packing", PACKINGS)
def test_mentions_stand_where_chunks_say(build, make_mentions, packing):
    store = build(packing=packing, mentions=make_mentions(DOCUMENTS, NAMES))
    counts = store.meta["mentions"]
    assert counts["in_chunks"] + counts["in_dropped_text"] == 3 + 3 + 1 + 1 + 9 + 9 + 1
    assert (counts["cut_by_a_border"] == 0) == (packing != PACKINGS[3])
    assert store.mention_table["chunk_id"].to_numpy().tolist() == sorted(
        store.mention_table["chunk_id"].to_pylist()
    )
    for chunk in range(store.num_chunks):
        for row in store.mentions_of(chunk).to_pylist():
            text = store.chunk_text(chunk)[row["char_start"] : row["char_end"]]
            tokens = store.chunk_tokens(chunk)[row["token_start"] : row["token_end"]]
            assert text in row["surface"]
            if counts["cut_by_a_border"] == 0:
                assert text == row["surface"] == store._tokenizer.decode(tokens.tolist()).strip()
                assert NAMES[text] == row["entity"]


def test_end_tokens_close_documents_and_nothing_else(build, tokenizer_json):
    store = build()
    ends = np.flatnonzero(store.tokens == store.eos_id)
    assert ends.tolist() == (expected_tokens(tokenizer_json).doc_bounds[1:] - 1).tolist()


def test_the_result_does_not_depend_on_the_batches(build, make_mentions):
    mentions = make_mentions(DOCUMENTS, NAMES)
    for packing in PACKINGS:
        small = build(packing=packing, mentions=mentions, batch_chars=1)
        assert small.meta == build(packing=packing, mentions=mentions).meta


def test_a_shuffled_mentions_file_gives_the_same_store(build, make_mentions):
    sorted_store = build(mentions=make_mentions(DOCUMENTS, NAMES))
    assert build(mentions=make_mentions(DOCUMENTS, NAMES, order=-1)).meta == sorted_store.meta


def test_refused_documents_and_dropped_tails_are_stored_with_their_reason(build):
    documents = [
        *DOCUMENTS,
        Rejected("docs.jsonl line 4", "bad JSON"),
        Rejected("row 5", "duplicate id", "d1"),
    ]
    store = build(documents, packing=PACKINGS[2])
    reasons = [(row["doc_id"], row["reason"], row["place"]) for row in store.dropped_table.to_pylist()]
    tail = "shorter than the smallest bucket"
    assert [row for row in reasons if row[1] != tail] == [
        (None, "bad JSON", "docs.jsonl line 4"),
        ("d1", "duplicate id", "row 5"),
    ]
    assert ("d2", tail, None) in reasons
    assert store.document("d2").text == "Bob."
    assert store.chunks_of_document("d2").tolist() == []


def test_retention_counts_tokens_padding_and_documents(build):
    store = build(packing=PACKINGS[2])
    counts = count_retention(store, batch_tokens=64)
    (bucket,) = counts["buckets"]
    lost = sum(row["num_tokens"] for row in store.dropped_table.to_pylist())
    assert bucket["chunks"] == store.num_chunks
    assert bucket["tokens"] == len(store.tokens)
    assert bucket["share"] == len(store.tokens) / (len(store.tokens) + lost)
    assert bucket["padding"] == 1 - len(store.tokens) / (16 * store.num_chunks)
    assert bucket["updates_per_epoch"] == store.num_chunks / 4
    assert counts["documents"] == {"stored": 3, "without_any_chunk": 1}
    assert counts["dropped"] == [
        {"reason": "shorter than the smallest bucket", "documents": 3, "tokens": lost}
    ]


def test_mentions_of_another_text_are_refused_and_leave_nothing_behind(build, make_mentions, tmp_path):
    with pytest.raises(ValueError, match=r"'d1' were made for another text .* annotate it again"):
        build(mentions=make_mentions(DOCUMENTS, NAMES, text_sha256="0" * 64))
    assert [path.name for path in tmp_path.iterdir()] == ["mentions.parquet"]


def test_mentions_of_unknown_documents_and_impossible_spans_are_counted(build, make_mentions):
    others = [*DOCUMENTS, Document("d9", "Ada and Bob")]
    assert build(mentions=make_mentions(others, NAMES)).meta["mentions_of_other_documents"] == {
        "rows": 2,
        "examples": ["d9"],
    }
    store = build(mentions=make_mentions(DOCUMENTS, NAMES, char_end=10_000))
    assert store.meta["mentions"]["out_of_range"] == 27
    assert store.mention_table.num_rows == 0
    assert count_retention(store)["mentions"]["out_of_range"] == 27


def test_validation_documents_are_a_store_of_their_own(build, make_mentions):
    documents = [Document(str(number), f"Bob ran home {number} times.") for number in range(60)]
    store = build(documents, validation_fraction=0.3, mentions=make_mentions(documents, NAMES))
    validation = open_store(store.path / "validation")
    held_back = [d.doc_id for d in documents if is_held_back(d.doc_id, 0.3)]
    assert validation._documents.doc_ids.to_pylist() == held_back
    assert store._documents.doc_ids.to_pylist() == [d.doc_id for d in documents if d.doc_id not in held_back]
    assert validation.mention_table.num_rows == len(held_back)
    assert store.meta["validation_meta_sha256"] == validation.sha256
    assert store.meta["mentions_of_other_documents"]["rows"] == 0


def test_a_store_without_texts_decodes_its_tokens(build):
    with_text, without = build(), build(with_text=False)
    assert not without.has_text
    assert without.document("d1").title == "Meeting"
    assert without.document("d1").text is None
    for chunk in range(with_text.num_chunks):
        assert without.chunk_text(chunk) == with_text.chunk_text(chunk)


def test_nothing_usable_is_an_error(build, tmp_path):
    with pytest.raises(ValueError, match=r"no usable document \(1 x bad JSON\)"):
        build([Rejected("line 1", "bad JSON")])
    with pytest.raises(ValueError, match=r"no usable document \(the input is empty\)"):
        build([])
    with pytest.raises(ValueError, match=r"--validation-fraction 1.0 of 3 documents leaves none to train on"):
        build(validation_fraction=1.0)
    with pytest.raises(ValueError, match="--max-length 0 is too short"):
        build(packing=Packing("fixed", max_length=0))
    with pytest.raises(ValueError, match=r"--validation-fraction 1e-09 of 3 documents chooses none"):
        build(validation_fraction=1e-9)
    with pytest.raises(ValueError, match="--tails drop has no meaning with --packing fixed"):
        build(packing=Packing("fixed", tails="drop"))
    assert list(tmp_path.iterdir()) == []


def test_a_failure_in_the_middle_keeps_the_store_that_was_there(build, tokenizer_json):
    store = build()
    encoder = TextEncoder(tokenizer_json)
    broken = encode_documents(chain(DOCUMENTS, (1 / 0 for _ in range(1))), encoder, batch_chars=1)
    with pytest.raises(ZeroDivisionError):
        build_store(store.path, broken, encoder=encoder, packing=PACKINGS[1], overwrite=True)
    assert open_store(store.path).sha256 == store.sha256
    whole = encode_documents(DOCUMENTS, encoder)
    build_store(store.path, whole, encoder=encoder, packing=PACKINGS[1], overwrite=True)
    assert open_store(store.path).sha256 != store.sha256
    assert [path.name for path in store.path.parent.iterdir()] == [store.path.name]


def test_inputs_differ_in_named_places():
    found = json.loads('{"packing": {"min_length": 16, "max_length": 64}, "documents": [{"name": "a"}]}')
    wanted = {"packing": {"min_length": 8, "max_length": 64}, "documents": [{"name": "b"}], "text": True}
    assert differences(found, wanted) == [
        'documents is [{"name": "a"}], not [{"name": "b"}]',
        "packing.min_length is 16, not 8",
        "text is null, not true",
    ]

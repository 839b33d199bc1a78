import json
import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chunk_provenance import (
    FormatError,
    MixtureStore,
    compute_store_order,
    load_order,
    open_store,
    write_mixture,
)
from chunk_provenance.build import Packing, build_store
from chunk_provenance.documents import Document
from chunk_provenance.encoding import encode_documents
from chunk_provenance.mentions import MentionFile
from chunk_provenance.mixture_order import compute_mixture_order, count_trained, separate, spread
from chunk_provenance.mixtures import multipliers_of_shares, parse_weights
from chunk_provenance.order import check_store
from chunk_provenance.order_checks import check_order
from chunk_provenance.tokenizing import TextEncoder

WIKI = [Document(f"d{i}", f"Ada met Bob in Bath, again and again: {i}. " * 3, "Meeting") for i in range(12)]
BOOKS = [Document(f"d{i}", f"Bob ran home, {i} times. " * (1 + i % 3)) for i in range(21)]


@pytest.fixture
def stores(tmp_path, tokenizer_json, make_mentions):
    """The stores `wiki` and `books`, documents of equal ids in both; Ada and Bob are mentioned in `wiki`."""
    encoder = TextEncoder(tokenizer_json)
    mentions = MentionFile(make_mentions(WIKI, {"Ada": "Q1", "Bob": "Q2"}))
    for name, documents, of_store in (("wiki", WIKI, mentions), ("books", BOOKS, None)):
        build_store(
            tmp_path / name,
            encode_documents(documents, encoder),
            encoder=encoder,
            packing=Packing("buckets", 8, 32),
            mentions=of_store,
        )
    return open_store(tmp_path / "wiki"), open_store(tmp_path / "books")


@pytest.fixture
def mixture(stores, tmp_path):
    wiki, books = stores
    write_mixture(tmp_path / "mixture", [f"{wiki.path}=1x", f"{books.path}=2.5x"])
    return open_store(tmp_path / "mixture")


def test_every_chunk_of_a_mixture_is_that_of_its_store(stores, mixture):
    assert isinstance(mixture, MixtureStore)
    places = [
        (store, name, chunk)
        for store, name in zip(stores, ("wiki", "books"), strict=True)
        for chunk in range(store.num_chunks)
    ]
    assert mixture.num_chunks == len(places)
    for chunk_id, (store, name, local) in enumerate(places):
        part, found = mixture.locate(chunk_id)
        assert (part.name, found) == (name, local)
        assert mixture.ids_of(name, np.array([local])).tolist() == [chunk_id]
        assert mixture.chunk_tokens(chunk_id).tolist() == store.chunk_tokens(local).tolist()
        assert mixture.chunk_text(chunk_id) == store.chunk_text(local)
        assert mixture.decode(chunk_id) == store.decode(local)
        assert (mixture.length[chunk_id], mixture.bucket[chunk_id]) == (
            store.length[local],
            store.bucket[local],
        )
        (mine,), (theirs,) = mixture.segments(chunk_id), store.segments(local)
        assert (mine.doc_id, mine.char_start) == (f"{name}:{theirs.doc_id}", theirs.char_start)
        assert mixture.document(mine.doc_id).text == store.document(theirs.doc_id).text
        wanted = ["surface", "entity", "char_start"]
        assert mixture.mentions_of(chunk_id).select(wanted).equals(store.mentions_of(local).select(wanted))
    assert mixture.chunks_of_document("books:d0").tolist() == [
        chunk + stores[0].num_chunks for chunk in stores[1].chunks_of_document("d0").tolist()
    ]
    for chunk_id in (-1, mixture.num_chunks):
        with pytest.raises(ValueError, match="no chunk"):
            mixture.chunk_tokens(chunk_id)


def test_rows_of_a_mixture_are_the_rows_of_its_stores(stores, mixture):
    wiki, books = stores
    size = int(books.bucket[0])
    mine, yours = (np.flatnonzero(store.bucket == size)[:2] for store in stores)
    rows, documents = mixture.rows(np.concatenate([mine, yours + wiki.num_chunks]))
    parts = [wiki.rows(mine), books.rows(yours)]
    assert rows.tolist() == np.concatenate([part[0] for part in parts]).tolist()
    assert documents.tolist() == np.concatenate([part[1] for part in parts]).tolist()


def test_documents_are_told_apart_by_their_store(mixture):
    assert mixture.document("wiki:d1").title == "Meeting"
    assert (mixture.has_document("books:d1"), mixture.has_document("books:d99")) == (True, False)
    with pytest.raises(ValueError, match="in a mixture its id is STORE:ID, the stores are wiki, books"):
        mixture.document("d1")
    with pytest.raises(ValueError, match="no document 'd99'"):
        mixture.document("books:d99")
    with pytest.raises(ValueError, match="no store 'news' in the mixture"):
        mixture.ids_of("news", np.array([0]))


def test_ids_mean_the_same_in_mixtures_of_the_same_stores_whatever_the_weights(stores, mixture, tmp_path):
    wiki, books = stores
    write_mixture(tmp_path / "other", [f"{wiki.path}=0.9", f"{books.path}=0.1"], replacement=True)
    other = open_store(tmp_path / "other")
    assert other.sha256 == mixture.sha256
    check_store(compute_store_order(other, batch_tokens=32, seed=0, epochs=2), mixture.sha256)
    write_mixture(tmp_path / "turned", [f"{books.path}=1x", f"{wiki.path}=1x"])
    assert open_store(tmp_path / "turned").sha256 != mixture.sha256


def test_a_store_that_changed_or_went_away_is_refused(stores, mixture):
    books = stores[1].path
    meta = json.loads((books / "meta.json").read_text(encoding="utf-8"))
    (books / "meta.json").write_text(json.dumps({**meta, "note": 1}), encoding="utf-8")
    with pytest.raises(FormatError, match="mix again, chunk ids may mean other text now"):
        open_store(mixture.path)
    shutil.rmtree(books)
    with pytest.raises(FileNotFoundError, match="no chunk store at"):
        open_store(mixture.path)
    (mixture.path / "mixture.json").write_text("{", encoding="utf-8")
    with pytest.raises(FormatError, match="is no JSON"):
        open_store(mixture.path)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a"], "expected STORE=SHARE"),
        (["a="], "expected STORE=SHARE"),
        (["a=0"], "expected STORE=SHARE"),
        (["a=-1x"], "expected STORE=SHARE"),
        (["a=nan"], "expected STORE=SHARE"),
        (["a=inf"], "expected STORE=SHARE"),
        (["=1"], "expected STORE=SHARE"),
        (["a=1", "b=2x"], "for all stores, not both"),
        (["x/a=1", "y/a=2"], "two stores are called 'a'"),
    ],
)
def test_weights_that_cannot_be_read_are_refused(words, message):
    with pytest.raises(ValueError, match=message):
        parse_weights(words)


def test_shares_become_the_largest_multipliers_that_repeat_nothing():
    assert multipliers_of_shares([0.7, 0.3], [7000, 1000]) == pytest.approx([1 / 3, 1.0])


def test_the_shares_are_those_of_the_tokens_trained(stores, tmp_path):
    wiki, _ = stores
    for shares in ([0.5, 0.5], [0.8, 0.2]):
        words = [f"{store.path}={share}" for store, share in zip(stores, shares, strict=True)]
        write_mixture(tmp_path / "mixture", words, overwrite=True)
        mixture = open_store(tmp_path / "mixture")
        order = compute_store_order(mixture, batch_tokens=32, seed=0, epochs=40)
        found = count_trained(order, mixture)
        assert [store.share for store in found] == pytest.approx(shares, abs=0.01)
        assert sum(store.tokens for store in found) == int(mixture.length[order.ids].sum())
        assert [store.exposures for store in found] == [
            int((order.ids < wiki.num_chunks).sum()),
            int((order.ids >= wiki.num_chunks).sum()),
        ]
        check_order(order, mixture)


def test_repeats_are_exposures_and_every_chunk_of_a_store_comes_before_any_comes_again(mixture):
    order = compute_store_order(mixture, batch_tokens=32, seed=0, epochs=8)
    seen = np.bincount(order.ids, minlength=mixture.num_chunks)
    wiki = mixture.parts[1].first_chunk
    assert set(seen[:wiki].tolist()) <= {7, 8}  # the last epoch's remainder is not trained on
    assert set(seen[wiki:].tolist()) <= {19, 20}


@st.composite
def mixtures(draw):
    """Buckets of up to three stores whose lengths can fill updates of 16 tokens, and multipliers."""
    stores = []
    for _ in range(draw(st.integers(1, 3))):
        counts = {size: draw(st.integers(0, 12)) for size in (4, 8, 16)}
        stores.append([size for size, count in counts.items() for _ in range(count)])
    stores[0] += [4] * 4 + [8] * 2 + [16]
    times = [draw(st.sampled_from([0.5, 1.0, 1.3, 2.0])) for _ in stores]
    return stores, times


@given(mixtures(), st.integers(0, 3), st.booleans())
def test_an_update_holds_one_length_and_no_chunk_twice(drawn, seed, replacement):
    stores, times = drawn
    buckets = np.array([size for store in stores for size in store], dtype=np.int32)
    first = np.cumsum([0, *map(len, stores)])
    order = None
    try:
        order = compute_mixture_order(
            buckets, first, times, batch_tokens=16, seed=seed, epochs=6, replacement=replacement
        )
    except ValueError as refused:
        sentence = str(refused)
    if order is None:
        assert "lower the weight of its store" in sentence or "never fill one" in sentence
        return
    check_order(order)
    for update in range(1, order.num_updates + 1):
        batch = order.batch(update)
        assert len({int(buckets[chunk]) for chunk in batch}) == 1
        assert len(batch) * int(buckets[batch[0]]) == 16
    seen = np.bincount(order.ids, minlength=len(buckets))
    if not replacement:
        for store, multiplier in enumerate(times):
            assert seen[first[store] : first[store + 1]].max(initial=0) <= np.ceil(6 * multiplier)
    again = compute_mixture_order(
        buckets, first, times, batch_tokens=16, seed=seed, updates=order.num_updates, replacement=replacement
    )
    assert np.array_equal(again.ids, order.ids)


def test_draws_with_replacement_leave_some_out_and_repeat_others():
    buckets = np.full(400, 4, dtype=np.int32)
    first = np.array([0, 200, 400])
    order = compute_mixture_order(
        buckets, first, [1.0, 1.0], batch_tokens=16, seed=0, epochs=1, replacement=True
    )
    seen = np.bincount(order.ids, minlength=400)
    assert (seen == 0).sum() > 100  # about 400 / e are left out
    assert seen.max() > 2
    check_order(order)


def test_streams_are_spread_evenly_and_keep_their_order():
    streams = [np.arange(0, 90), np.arange(100, 110)]
    mixed = spread(streams, np.random.default_rng(0))
    assert [mixed[mixed < 100].tolist(), mixed[mixed >= 100].tolist()] == [s.tolist() for s in streams]
    per_fifth = [(part >= 100).sum() for part in np.split(mixed, 5)]
    assert sum(per_fifth) == 10
    assert min(per_fifth) >= 1
    assert max(per_fifth) <= 3


@given(st.lists(st.integers(0, 7), max_size=40), st.integers(1, 4))
def test_repeated_ids_wait_for_another_update_and_nothing_is_lost(ids, rows):
    updates, left = separate(np.array(ids, dtype=np.int64), rows)
    assert sorted([*updates.tolist(), *left.tolist()]) == sorted(ids)
    assert all(len(set(update)) == rows for update in updates.reshape(-1, rows).tolist())
    assert len(set(left.tolist())) < rows  # what is left could fill no update
    if len(set(ids)) == len(ids):
        assert updates.tolist() == ids[: len(ids) // rows * rows]


def test_a_chunk_that_must_stand_twice_in_an_update_is_refused():
    with pytest.raises(ValueError, match=r"repeat too often .* \(chunk 4 waits 49 times\): lower the weight"):
        compute_mixture_order(
            np.full(5, 4, dtype=np.int32), np.array([0, 4, 5]), [1.0, 50.0], batch_tokens=16, seed=0, epochs=1
        )
    with pytest.raises(ValueError, match="either epochs or updates"):
        compute_mixture_order(np.full(4, 4, dtype=np.int32), np.array([0, 4]), [1.0], batch_tokens=16, seed=0)
    with pytest.raises(ValueError, match=r"in 1 epochs of the mixture, .* \[4\] chunks never fill one"):
        compute_mixture_order(
            np.full(4, 4, dtype=np.int32), np.array([0, 4]), [0.5], batch_tokens=16, seed=0, epochs=1
        )


def test_stores_of_different_tokenizers_and_taken_places_are_refused(stores, tmp_path, small_store):
    wiki, _ = stores
    with pytest.raises(ValueError, match="has another tokenizer than"):
        write_mixture(tmp_path / "m", [f"{wiki.path}=1", f"{small_store.path}=1"])
    write_mixture(tmp_path / "m", [f"{wiki.path}=1"])
    with pytest.raises(FileExistsError, match="choose another place for the mixture"):
        write_mixture(tmp_path / "m", [f"{wiki.path}=1"])
    with pytest.raises(FileExistsError, match="choose another place for the mixture"):
        write_mixture(wiki.path, [f"{wiki.path}=1"], overwrite=True)
    with pytest.raises(ValueError, match="made of chunk stores, not of mixtures"):
        write_mixture(tmp_path / "n", [f"{tmp_path / 'm'}=1"])


def test_a_mixture_goes_the_way_of_a_store_on_the_command_line(stores, tmp_path, run_cli, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, printed, _ = run_cli("mix", "wiki=1x", "books=2x", "mixture")
    assert (code, "seen an epoch" in printed, "books" in printed) == (0, True, True)
    code, printed, _ = run_cli("order", "mixture", "order", "--batch-tokens", 32, "--epochs", 3)
    assert (code, "Trained on" in printed) == (0, True)
    code, _, words = run_cli("order", "mixture", "order", "--batch-tokens", 32, "--epochs", 3)
    assert (code, words) == (0, "order is up to date\n")
    header = load_order("order").info
    wiki, _ = stores
    assert [(store["name"], store["first_chunk"], store["multiplier"]) for store in header["stores"]] == [
        ("wiki", 0, 1.0),
        ("books", wiki.num_chunks, 2.0),
    ]
    assert run_cli("check", "order", "--store", "mixture")[0] == 0
    chunk = wiki.num_chunks
    found = json.loads(run_cli("show", "mixture", "--chunk", chunk, "--order", "order", "--json")[1])
    assert (found["of_store"], found["chunk_id_there"], found["segments"][0]["doc_id"]) == (
        "books",
        0,
        "books:d0",
    )
    assert found["steps"] == load_order("order").steps_of(chunk).tolist()
    assert "  chunk 0 of the store books\n" in run_cli("show", "mixture", "--chunk", chunk)[1]
    code, _, errors = run_cli("order", "wiki", "order", "--batch-tokens", 32, "--epochs", 3)
    assert (code, "is another data order" in errors) == (2, True)
    code, _, errors = run_cli(
        "order", "mixture", "o", "--batch-tokens", 32, "--epochs", 1, "--curriculum", "natural"
    )
    assert (code, "a --curriculum orders one chunk store, this is a mixture" in errors) == (2, True)

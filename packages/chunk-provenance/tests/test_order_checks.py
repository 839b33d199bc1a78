import dataclasses
import json

import numpy as np
import pyarrow as pa
import pytest

from chunk_provenance import DataOrder, FormatError, compute_order, load_order, order_checks, save_order
from chunk_provenance.order_checks import check_order


@pytest.fixture
def order(small_store):
    """Updates [0, 1], [2], [1, 0], [2] of the small store."""
    return DataOrder(
        np.array([0, 2, 3, 5, 6]),
        np.array([0, 1, 2, 1, 0, 2]),
        np.array([0, 2]),
        {"store_sha256": small_store.sha256},
    )


def changed(order, place, chunk_id):
    ids = order.ids.copy()
    ids[place] = chunk_id
    return dataclasses.replace(order, ids=ids)


def masking(order, *pairs):
    updates, chunks = zip(*pairs, strict=True)
    return dataclasses.replace(order, masked=pa.table({"update": updates, "chunk_id": chunks}))


@pytest.mark.parametrize("block", [1, 2, 1 << 23])
def test_an_order_that_a_trainer_can_follow_passes(order, small_store, block, monkeypatch):
    monkeypatch.setattr(order_checks, "BLOCK", block)
    check_order(order, small_store)
    check_order(masking(order, (1, 0), (3, 0)), small_store)
    check_order(compute_order(small_store.bucket, batch_tokens=16, seed=0, epochs=3), small_store)


@pytest.mark.parametrize("block", [1, 2, 1 << 23])
@pytest.mark.parametrize(
    ("place", "chunk_id", "message"),
    [
        (3, 0, "update 3 holds chunk 0 twice"),
        (2, 3, "update 2 holds chunk 3, the store has chunks 0 to 2"),
        (1, 2, "update 1 holds chunks of the padded lengths 8 and 16"),
    ],
)
def test_ids_that_no_trainer_could_use_are_refused_with_their_update(
    order, small_store, block, place, chunk_id, message, monkeypatch
):
    monkeypatch.setattr(order_checks, "BLOCK", block)
    with pytest.raises(FormatError, match=message):
        check_order(changed(order, place, chunk_id), small_store)


def test_a_repeated_injected_row_or_far_id_is_refused_without_a_store(order):
    for chunk_id in (-1, 1 << 60):
        twice = changed(changed(order, 3, chunk_id), 4, chunk_id)
        with pytest.raises(FormatError, match=f"update 3 holds chunk {chunk_id} twice"):
            check_order(twice)


def test_an_order_of_another_store_is_refused(order, small_store):
    other = dataclasses.replace(order, info={"store_sha256": "f" * 64})
    with pytest.raises(FormatError, match="belongs to the chunk store ffffffffffff"):
        check_order(other, small_store)


@pytest.mark.parametrize(("update", "chunk_id"), [(0, 0), (2, 0), (1, 2), (5, 0), (1, -1), (1, 99)])
def test_a_mask_of_what_its_update_does_not_hold_is_refused(order, update, chunk_id):
    with pytest.raises(FormatError, match=f"holds chunk {chunk_id} out of update {update}, which does not"):
        check_order(masking(order, (3, 0), (update, chunk_id)))


def test_an_update_with_every_chunk_held_out_is_refused(order):
    with pytest.raises(FormatError, match="every chunk of update 2 would be held out"):
        check_order(masking(order, (1, 0), (2, 2)))
    with pytest.raises(FormatError, match=r"every chunk of update 1 \(and 1 more\) would be held out"):
        check_order(masking(order, (1, 0), (1, 1), (4, 2)))


@pytest.fixture
def folder(order, tmp_path):
    save_order(order, tmp_path / "order")
    return tmp_path / "order"


def test_a_file_that_is_cut_off_is_refused(folder):
    for name in ("ids.npy", "offsets.npy"):
        content = (folder / name).read_bytes()
        for length in (len(content) - 1, 20, 0):
            (folder / name).write_bytes(content[:length])
            with pytest.raises(FormatError, match=f"{name}' is cut off or no .npy file"):
                load_order(folder)
        (folder / name).write_bytes(content)
    load_order(folder)


@pytest.mark.parametrize("dtype", ["<i4", "<u8", "<f8", ">i8"])
def test_numbers_of_another_type_are_refused(folder, dtype):
    for name in ("ids.npy", "offsets.npy"):
        good = np.load(folder / name)
        np.save(folder / name, good.astype(dtype))
        with pytest.raises(FormatError, match=r"a data order has int64 in one row"):
            load_order(folder)
        np.save(folder / name, good)
    np.save(folder / "ids.npy", good.reshape(1, -1))
    with pytest.raises(FormatError, match=r"of shape \(1, 5\)"):
        load_order(folder)


def test_pickled_ids_are_refused_unread(folder):
    np.save(folder / "ids.npy", np.array([1, "a"], dtype=object), allow_pickle=True)
    with pytest.raises(FormatError, match=r"no \.npy file of numbers"):
        load_order(folder)


@pytest.mark.parametrize(
    ("offsets", "message"),
    [
        ([0, 2, 2, 5, 6], "update 2 in offsets.npy holds no chunk"),
        ([0, 3, 2, 5, 6], "update 2 in offsets.npy holds no chunk"),
        ([1, 2, 3, 5, 6], "is damaged"),
        ([0, 2, 3, 5, 7], "offsets.npy, ids.npy and order.json disagree"),
        ([0, 2, 3, 6], "offsets.npy, ids.npy and order.json disagree"),
    ],
)
def test_offsets_that_do_not_ascend_or_do_not_fit_are_refused(folder, offsets, message):
    np.save(folder / "offsets.npy", np.array(offsets))
    with pytest.raises(FormatError, match=message):
        load_order(folder)


def test_a_header_that_is_damaged_is_refused(folder):
    header = json.loads((folder / "order.json").read_text(encoding="utf-8"))

    def write(text):
        (folder / "order.json").write_text(text, encoding="utf-8")

    for starts in ([1, 2], [0, 3, 2], [0, 5]):
        write(json.dumps({**header, "epoch_starts": starts}))
        with pytest.raises(FormatError, match="do not ascend from 0 inside the 4 updates"):
            load_order(folder)
    write(json.dumps({name: value for name, value in header.items() if name != "epoch_starts"}))
    with pytest.raises(FormatError, match=r"lacks \['epoch_starts'\]"):
        load_order(folder)
    write("{")
    with pytest.raises(FormatError, match="is no JSON"):
        load_order(folder)
    write("[]")
    with pytest.raises(FormatError, match="holds a list, expected an object"):
        load_order(folder)


def test_a_store_without_chunks_has_no_order():
    with pytest.raises(ValueError, match="holds no chunk"):
        compute_order(np.empty(0, dtype=np.int32), batch_tokens=8, seed=0, updates=3)


def test_the_command_tells_what_it_read(folder, small_store, run_cli):
    assert run_cli("check", folder, "--store", small_store.path) == (
        0,
        "4 updates, 6 exposures, all of the store: nothing is wrong\n",
        "",
    )
    np.save(folder / "ids.npy", np.array([0, 1, 2, 1, 1, 2]))
    code, _, errors = run_cli("check", folder)
    assert (code, errors.startswith("error: update 3 holds chunk 1 twice")) == (2, True)

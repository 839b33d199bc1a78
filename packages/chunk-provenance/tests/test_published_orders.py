import json
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chunk_provenance import FormatError, open_order, save_order
from chunk_provenance.published import (
    compute_olmo_order,
    lment_readme_step,
    pythia_row_order,
    update_of_readme_step,
)
from chunk_provenance.published.lment_order import LMENT_UPDATES_PER_EPOCH

GOLDEN = Path(__file__).parent / "golden" / "published"
VSL = GOLDEN.parent / "lment_data" / "vsl"
EXPECTED = json.loads((VSL / "kas_vsl.json").read_text(encoding="utf-8"))["batch_indices"]


def batches(order):
    return [order.batch(update).tolist() for update in range(1, order.num_updates + 1)]


def save_rows(path, rows):
    """As LMEnt saves it: an object array of integer arrays."""
    array = np.empty(len(rows), dtype=object)
    for number, row in enumerate(rows):
        array[number] = np.array(row, dtype=np.int64)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, array, allow_pickle=True)
    return path


def save_plain(path, numbers, dtype="<u4"):
    """As OLMo saves it: numbers without a header."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.asarray(numbers, dtype=dtype).tofile(path)
    return path


def save_vsl_folder(folder, golden, *, name="vsl-grow-p2-8-cycle"):
    """What LMEnt's data loader keeps, from the golden arrays."""
    for epoch in (1, 2):
        order = golden[f"global_batch_indices_epoch{epoch}"]
        save_plain(folder / name / f"global_batch_indices_bz128_epoch{epoch}_seed0.npy", order)
        for length in (8, 16, 32, 64):
            file = folder / name / f"instance_indices_bucket{length}_epoch{epoch}_seed0.npy"
            save_plain(file, golden[f"instance_perm_bucket{length}_epoch{epoch}"])
    return folder / name


@pytest.fixture(scope="module")
def golden():
    return dict(np.load(VSL / "kas_vsl.npz"))


# LMEnt


def test_an_epoch_of_lment_has_the_batches_that_its_code_gave(tmp_path):
    order = open_order(GOLDEN / "batch_indices_epoch_1.npy")
    assert batches(order) == EXPECTED["1"]
    assert order.epoch_starts.tolist() == [0]
    assert order.info["kind"] == "lment"


@pytest.mark.parametrize("place", ["", "dataset-cache"])
def test_the_epochs_of_a_folder_follow_one_another(tmp_path, place):
    for epoch in ("1", "2"):
        save_rows(tmp_path / place / f"batch_indices_epoch_{epoch}.npy", EXPECTED[epoch])
    order = open_order(tmp_path)
    assert batches(order) == EXPECTED["1"] + EXPECTED["2"]
    assert order.epoch_starts.tolist() == [0, 536]
    assert [order.epoch_of(update) for update in (1, 536, 537, 1072)] == [1, 1, 2, 2]
    assert batches(open_order(tmp_path, epochs=1)) == EXPECTED["1"]


def test_epoch_10_comes_after_epoch_9(tmp_path):
    for epoch in range(1, 11):
        save_rows(tmp_path / f"batch_indices_epoch_{epoch}.npy", [[epoch], [0, 20 + epoch]])
    assert batches(open_order(tmp_path))[::2] == [[epoch] for epoch in range(1, 11)]


def test_one_epoch_may_be_repeated(tmp_path):
    path = save_rows(tmp_path / "batch_indices.npy", [[4, 1], [2]])
    order = open_order(path, epochs=3)
    assert batches(order) == [[4, 1], [2]] * 3
    assert order.epoch_starts.tolist() == [0, 2, 4]
    assert order.steps_of(2).tolist() == [2, 4, 6]


def test_a_missing_epoch_in_between_is_refused(tmp_path):
    for epoch in (1, 3):
        save_rows(tmp_path / f"batch_indices_epoch_{epoch}.npy", [[1], [2]])
    with pytest.raises(ValueError, match=r"lacks batch_indices_epoch_2\.npy"):
        open_order(tmp_path)


def test_the_files_of_lments_loader_give_the_same_order(tmp_path, golden):
    folder = save_vsl_folder(tmp_path, golden)
    order = open_order(folder)
    assert batches(order) == EXPECTED["1"] + EXPECTED["2"]
    assert order.epoch_starts.tolist() == [0, 536]
    assert batches(open_order(folder / "global_batch_indices_bz128_epoch2_seed0.npy")) == EXPECTED["2"]


def test_a_balanced_folder_takes_as_many_batches_of_every_bucket(tmp_path):
    folder = tmp_path / "vsl-grow-p2-2-cycle-balanced"
    save_plain(folder / "instance_indices_bucket4_epoch1_seed7.npy", range(20))  # 10 batches of 2
    save_plain(folder / "instance_indices_bucket8_epoch1_seed7.npy", range(20, 25))  # 5 batches of 1, 4 used
    save_plain(folder / "global_batch_indices_bz8_epoch1_seed7.npy", [7, 0, 3, 4, 1, 2, 5, 6])
    expected = [[23], [0, 1], [6, 7], [20], [2, 3], [4, 5], [21], [22]]
    assert batches(open_order(folder)) == expected


def test_batches_that_do_not_fit_the_buckets_are_refused(tmp_path, golden):
    folder = save_vsl_folder(tmp_path, golden)
    save_plain(folder / "global_batch_indices_bz128_epoch1_seed0.npy", range(535))
    with pytest.raises(FormatError, match="orders 535 batches, the buckets beside it give 536"):
        open_order(folder)


def test_orders_of_two_seeds_in_a_folder_are_refused(tmp_path, golden):
    folder = save_vsl_folder(tmp_path, golden)
    save_plain(folder / "global_batch_indices_bz128_epoch1_seed1.npy", range(536))
    with pytest.raises(ValueError, match=r"several \(batch size, seed\) \[\(128, 0\), \(128, 1\)\]"):
        open_order(folder)


def test_a_buckets_file_that_is_missing_is_said(tmp_path):
    save_plain(tmp_path / "global_batch_indices_bz128_epoch1_seed0.npy", range(3))
    with pytest.raises(FileNotFoundError, match="instance_indices_bucket"):
        open_order(tmp_path)


def test_the_readmes_step_is_one_less_than_the_update():
    """The chunk of LMEnt's README is in row 16,618 (from 0): the checkpoint step16618 has not seen it."""
    assert update_of_readme_step(16_618) == 16_619
    assert lment_readme_step(16_619) == 16_618


@given(st.integers(1, 6 * LMENT_UPDATES_PER_EPOCH))
def test_the_two_ways_to_count_are_inverse(update):
    epoch = (update - 1) // LMENT_UPDATES_PER_EPOCH + 1
    assert update_of_readme_step(lment_readme_step(update), epoch=epoch) == update


@pytest.mark.parametrize("step", [-1, 109_672])
def test_a_step_outside_an_epoch_is_refused(step):
    with pytest.raises(ValueError, match="steps count from 0 to 109671"):
        update_of_readme_step(step)
    with pytest.raises(ValueError, match="they count from 1"):
        lment_readme_step(0)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([[1, 2], [3, 1]], "chunk 1 twice in epoch 1, in the updates 1 and 2"),
        ([[1, 2], [3, 3]], "chunk 3 twice in epoch 1, in the updates 2 and 2"),
        ([[1, 2], [10**12, 10**12]], "chunk 1000000000000 twice in epoch 1"),
        ([[1, 2], [3], [4, -7]], "update 3 has the chunk id -7: ids count from 0"),
    ],
)
def test_a_wrong_id_is_refused_with_its_update(tmp_path, rows, words):
    with pytest.raises(FormatError, match=words):
        open_order(save_rows(tmp_path / "batch_indices.npy", rows))


# OLMo and OLMo-core


@pytest.fixture(scope="module")
def loader():
    return np.load(GOLDEN / "data_order_olmo_core.npz")


def test_the_closed_form_is_olmo_cores_shuffle(loader):
    names = [name for name in loader.files if name.startswith("seed")]
    for name in names:
        seed, epoch, n = (int(part.lstrip("sedpochn")) for part in name.split("_"))
        order = compute_olmo_order(n, batch_size=1, seed=seed, first_epoch=epoch)
        assert order.ids.tolist() == loader[name].tolist()
    assert len(names) == 4


def test_the_closed_form_has_the_updates_that_olmo_cores_loader_gave(loader):
    order = compute_olmo_order(23, batch_size=4, seed=5)
    one, *two = (
        loader[f"loader_seed5_epoch1_n23_seq8_gbs32tok_{rank}"]
        for rank in ("ws1_rank0", "ws2_rank0", "ws2_rank1")
    )
    assert batches(order) == one.tolist()
    for update, shares in enumerate(zip(*two, strict=True), start=1):  # rank r has the columns r::2
        assert np.stack(shares, axis=1).reshape(-1).tolist() == order.batch(update).tolist()


def test_a_file_of_plain_numbers_is_cut_into_updates(tmp_path, loader):
    indices = loader["seed34521_epoch1_n1000"]
    path = save_plain(tmp_path / "train_data" / "global_indices.npy", indices)
    order = open_order(path, batch_size=64)
    assert batches(order) == indices[:960].reshape(15, 64).tolist()  # 40 instances fill no update
    assert order.ids.dtype == np.int64
    assert np.array_equal(open_order(tmp_path, batch_size=64).ids, order.ids)
    assert np.array_equal(compute_olmo_order(1000, batch_size=64, seed=34521).ids, order.ids)


def test_a_file_with_a_header_is_read_too(tmp_path):
    np.save(tmp_path / "global_indices_x.npy", np.array([3, 0, 2, 1], dtype=np.uint32))
    assert batches(open_order(tmp_path / "global_indices_x.npy", batch_size=2)) == [[3, 0], [2, 1]]


def test_epochs_of_olmo_core_follow_one_another_by_number(tmp_path):
    for epoch in (1, 2, 10):
        ids = compute_olmo_order(7, batch_size=1, seed=0, first_epoch=epoch).ids
        save_plain(tmp_path / f"global_indices_seed0_epoch{epoch}_size7_v1.npy", ids)
    order = open_order(tmp_path, batch_size=2)
    assert order.epoch_starts.tolist() == [0, 3, 6]
    assert order.num_updates == 9
    computed = compute_olmo_order(7, batch_size=2, seed=0, epochs=2)
    assert batches(order)[:6] == batches(computed)
    assert computed.epoch_starts.tolist() == [0, 3]


def test_olmo_counts_epochs_from_0_and_olmo_core_from_1():
    olmo = compute_olmo_order(50, batch_size=5, seed=6, first_epoch=0)
    assert np.array_equal(olmo.ids, compute_olmo_order(50, batch_size=5, seed=5).ids)


def test_instances_that_stay_together_come_one_after_the_other():
    order = compute_olmo_order(11, batch_size=3, seed=1, instances_together=3)
    groups = np.arange(3, dtype=np.uint32)
    np.random.Generator(np.random.PCG64(2)).shuffle(groups)
    assert batches(order) == [[3 * g, 3 * g + 1, 3 * g + 2] for g in groups.tolist()]


def test_only_so_many_updates_are_read(tmp_path):
    path = save_plain(tmp_path / "global_indices.npy", range(100))
    order = open_order(path, batch_size=10, updates=3)
    assert batches(order) == np.arange(30).reshape(3, 10).tolist()
    two = open_order(path, batch_size=10, epochs=2, updates=12)
    assert (two.num_updates, two.epoch_starts.tolist()) == (12, [0, 10])
    assert open_order(path, batch_size=10, epochs=2, updates=10).epoch_starts.tolist() == [0]
    with pytest.raises(ValueError, match="the file has 10 updates of 10, --updates asks for 11"):
        open_order(path, batch_size=10, updates=11)


def test_the_batch_size_must_be_said(tmp_path):
    path = save_plain(tmp_path / "global_indices.npy", range(8))
    with pytest.raises(ValueError, match="give --batch-size"):
        open_order(path)


def test_a_file_that_is_no_row_of_four_byte_numbers_is_refused(tmp_path):
    path = tmp_path / "global_indices.npy"
    path.write_bytes(bytes(10))
    with pytest.raises(FormatError, match="has 10 bytes, no 4-byte numbers"):
        open_order(path, batch_size=1)


# Pythia and GPT-NeoX


def save_maps(folder, *, num_samples=12, stem="pile_train_indexmap_8ns_16sl_1234s", shuffle=None):
    """Index maps as Megatron's code makes them: numpy's old generator, uint32."""
    rng = np.random.RandomState(1234)
    documents = np.arange(5, dtype=np.int32)
    rng.shuffle(documents)
    if shuffle is None:
        shuffle = np.arange(num_samples, dtype=np.uint32)
        rng.shuffle(shuffle)
    np.save(folder / f"{stem}_doc_idx.npy", documents)
    np.save(folder / f"{stem}_sample_idx.npy", np.zeros((num_samples + 1, 2), dtype=np.int32))
    np.save(folder / f"{stem}_shuffle_idx.npy", shuffle)
    return folder / f"{stem}_shuffle_idx.npy", shuffle


def test_the_shuffle_map_says_the_sample_of_each_position(tmp_path):
    path, shuffle = save_maps(tmp_path)
    order = open_order(path, batch_size=4)
    assert batches(order) == shuffle[:8].reshape(2, 4).tolist()  # 8ns: eight samples were asked for
    assert batches(open_order(path, batch_size=4, updates=3)) == shuffle.reshape(3, 4).tolist()


@pytest.mark.parametrize("ending", ["doc_idx", "sample_idx"])
def test_any_of_the_three_maps_names_the_order_and_so_does_their_folder(tmp_path, ending):
    path, _ = save_maps(tmp_path)
    save_maps(tmp_path, stem="pile_valid_indexmap_8ns_16sl_1234s")
    expected = open_order(path, batch_size=4).ids
    other = path.with_name(path.name.replace("shuffle_idx", ending))
    assert np.array_equal(open_order(other, batch_size=4).ids, expected)
    assert np.array_equal(open_order(tmp_path, batch_size=4).ids, expected)


def test_maps_of_two_runs_in_a_folder_must_be_told_apart(tmp_path):
    save_maps(tmp_path)
    save_maps(tmp_path, stem="pile_train_indexmap_8ns_16sl_1s")
    with pytest.raises(ValueError, match="has 2 shuffle maps"):
        open_order(tmp_path)


def test_maps_of_different_runs_are_refused(tmp_path):
    path, _ = save_maps(tmp_path, shuffle=np.arange(40, dtype=np.uint32))
    with pytest.raises(FormatError, match="they belong to different runs"):
        open_order(path, batch_size=4)


def test_maps_without_the_shuffle_map_are_refused(tmp_path):
    path, _ = save_maps(tmp_path)
    path.unlink()
    with pytest.raises(FileNotFoundError, match="it holds the order"):
        open_order(path.with_name(path.name.replace("shuffle", "doc")))


def test_a_shuffle_map_that_would_have_to_be_unpickled_is_refused(tmp_path):
    path, _ = save_maps(tmp_path)
    np.save(path, np.array([1, None], dtype=object), allow_pickle=True)
    with pytest.raises(FormatError, match="expected integers in 1 dimension"):
        open_order(path, batch_size=1)


def test_a_shuffle_map_that_is_cut_off_is_refused(tmp_path):
    path, _ = save_maps(tmp_path)
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(FormatError, match="holds 45 bytes of numbers, its header says 48: it is cut off"):
        open_order(path, batch_size=1)


def test_pre_shuffled_rows_are_trained_on_as_they_come():
    order = open_order("pythia:3")
    assert batches(order) == np.arange(3072).reshape(3, 1024).tolist()
    assert batches(pythia_row_order(updates=2, batch_size=2)) == [[0, 1], [2, 3]]


def write_index(path, num_rows):
    """A Megatron index: magic, version, type of token, number of sequences and documents; sizes, places."""
    head = b"MMIDIDX\x00\x00" + struct.pack("<QBQQ", 1, 8, num_rows, num_rows + 1)
    path.write_bytes(head + bytes(12 * num_rows + 8 * (num_rows + 1)))
    return path


def test_the_index_of_the_pre_shuffled_data_says_how_many_rows_there_are(tmp_path):
    path = write_index(tmp_path / "document.idx", 10)
    assert batches(open_order(path, batch_size=4)) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert open_order(tmp_path, batch_size=4).num_updates == 2
    with pytest.raises(ValueError, match="the file has 2 updates of 4, --updates asks for 3"):
        open_order(path, batch_size=4, updates=3)


@pytest.mark.parametrize("kept", [20, 60])
def test_an_index_that_is_cut_off_is_refused(tmp_path, kept):
    path = write_index(tmp_path / "document.idx", 10)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(FormatError, match="cut off"):
        open_order(path)


# Which is which


def test_an_own_order_is_opened_as_it_was_saved(tmp_path):
    order = open_order(GOLDEN / "batch_indices_epoch_1.npy")
    save_order(order, tmp_path / "order")
    again = open_order(tmp_path / "order")
    assert batches(again) == batches(order)
    assert again.info == order.info


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda folder: folder, "it has no order.json, batch_indices"),
        (lambda folder: folder / "none", "no data order at"),
        (lambda folder: save_plain(folder / "indices.bin", [1, 2]), "does not show whose data order it is"),
        (lambda folder: "pythia:many", "expected 'pythia:' and a number of updates"),
    ],
)
def test_what_is_no_order_is_said(tmp_path, make, words):
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        open_order(make(tmp_path))


def test_a_file_of_another_name_is_opened_by_its_kind(tmp_path):
    path = save_plain(tmp_path / "order.bin", [2, 0, 1, 3])
    assert batches(open_order(path, kind="olmo", batch_size=2)) == [[2, 0], [1, 3]]
    with pytest.raises(ValueError, match="--kind 'olma' is none of"):
        open_order(path, kind="olma")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"batch_size": 4}, "--batch-size has no meaning for an order of kind 'lment'"),
        ({"updates": 4}, "--updates has no meaning"),
        ({"epochs": 0}, "--epochs 0 must be at least 1"),
    ],
)
def test_options_that_mean_nothing_are_refused(tmp_path, options, words):
    with pytest.raises(ValueError, match=words):
        open_order(save_rows(tmp_path / "batch_indices.npy", [[1], [2]]), **options)


def test_more_epochs_than_there_are_files_are_refused(tmp_path):
    for epoch in (1, 2):
        save_rows(tmp_path / f"batch_indices_epoch_{epoch}.npy", [[1], [2]])
    with pytest.raises(ValueError, match="has 2 epochs, --epochs asks for 3"):
        open_order(tmp_path, epochs=3)

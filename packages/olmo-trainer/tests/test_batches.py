import dataclasses

import numpy as np
import pyarrow as pa
import pytest
import torch

from chunk_provenance import compute_order, open_store
from olmo_trainer.batches import IGNORED, make_labels, micro_batches, update_batches
from olmo_trainer.config import TrainConfig, load_config

CPU = torch.device("cpu")


def test_labels_are_the_golden_ones(golden):
    rows = golden["input_ids"], golden["doc_ids"].astype(np.int32)
    for across, name in ((True, "labels_cross_doc"), (False, "labels_intra_doc")):
        np.testing.assert_array_equal(make_labels(*rows, cross_document_targets=across), golden[name])


def test_positions_start_again_at_every_document(golden_batch, golden):
    np.testing.assert_array_equal(golden_batch().position_ids.numpy(), golden["position_ids"])


@pytest.fixture
def batches(make_store, write_config):
    """The micro-batches of the first update over chunks of the given documents, all in one update."""

    def make(documents, *, micro_batch_tokens=None, masked=None, bucket=8):
        store = open_store(make_store("made", documents, bucket=bucket))
        order = compute_order(store.bucket, batch_tokens=bucket * len(documents), seed=0, epochs=1)
        order = dataclasses.replace(order, masked=masked)
        settings = [f"micro_batch_tokens={micro_batch_tokens or 'null'}"]
        config = load_config(TrainConfig, write_config(), settings)
        return store, order, list(update_batches(store, order, 1, config, CPU))

    return make


def test_micro_batches_hold_the_rows_of_the_order_in_order(batches):
    store, order, parts = batches([[5], [8], [7], [6], [4]], micro_batch_tokens=16)
    assert [len(part.input_ids) for part in parts] == [2, 2, 1]
    assert [chunk for part in parts for chunk in part.chunk_ids] == order.batch(1).tolist()
    for part in parts:
        for chunk, row in zip(part.chunk_ids, part.input_ids.numpy(), strict=True):
            tokens = store.chunk_tokens(chunk)
            np.testing.assert_array_equal(row[: len(tokens)], tokens)
            assert (row[len(tokens) :] == store.pad_id).all()


def test_every_micro_batch_knows_the_targets_of_the_whole_update(batches):
    _, _, parts = batches([[5], [8], [7]], micro_batch_tokens=8)
    assert [part.num_targets for part in parts] == [4 + 7 + 6] * 3
    assert sum(int((part.labels != IGNORED).sum()) for part in parts) == 17


def test_a_row_longer_than_a_micro_batch_is_one_by_itself(batches):
    _, _, parts = batches([[8], [8]], micro_batch_tokens=3)
    assert [part.input_ids.shape for part in parts] == [(1, 8), (1, 8)]


def test_columns_that_are_padding_everywhere_are_not_computed(batches):
    _, _, (batch,) = batches([[3], [5]])
    assert batch.input_ids.shape == (2, 5)


def test_rows_of_one_document_carry_no_document_ids(batches):
    assert batches([[3], [5]])[2][0].doc_ids is None


def test_rows_of_several_documents_say_which(batches):
    _, order, (batch,) = batches([[1, 4], [3, 2, 2]])
    expected = {0: [0, 1, 1, 1, 1, -1, -1], 1: [0, 0, 0, 1, 1, 2, 2]}
    assert batch.doc_ids.tolist() == [expected[chunk] for chunk in order.batch(1)]


def test_a_held_out_chunk_has_no_targets_and_stays_in_the_batch(batches):
    masked = pa.table({"update": [1, 2], "chunk_id": [1, 0]})
    _, _, (batch,) = batches([[4], [5], [6]], masked=masked)
    targets = {
        chunk: int(row.ne(IGNORED).sum()) for chunk, row in zip(batch.chunk_ids, batch.labels, strict=True)
    }
    assert targets == {0: 3, 1: 0, 2: 5}
    assert batch.num_targets == 8


def test_an_empty_row_is_kept_one_token_wide():
    rows = np.zeros((1, 4), dtype=np.int64), np.full((1, 4), -1, dtype=np.int32)
    labels = make_labels(*rows, cross_document_targets=True)
    (batch,) = micro_batches(rows, labels, np.array([0]), micro_batch_tokens=None, device=CPU)
    assert batch.input_ids.shape == (1, 1)
    assert batch.num_targets == 1  # nothing to divide by, so one

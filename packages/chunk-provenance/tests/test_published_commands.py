"""The command `import`."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from chunk_provenance import batch_digest, load_dynamics, load_order, open_store
from chunk_provenance.hashing import hash_file
from chunk_provenance.published.lment_dataset import open_lment, padded_lengths

BATCH_TOKENS = 16
WORDS = ("Ada met Bob in Bath. She met him again. " * 4).strip()
DOCUMENTS = [(str(number), f"Page {number}", WORDS[number:], []) for number in range(6)]


@pytest.fixture
def tokenizer(tmp_path, tokenizer_json):
    (tmp_path / "tokenizer.json").write_text(tokenizer_json, encoding="utf-8")
    return tmp_path / "tokenizer.json"


def save_rows(path, rows):
    array = np.empty(len(rows), dtype=object)
    for number, row in enumerate(rows):
        array[number] = np.array(row, dtype=np.int64)
    np.save(path, array, allow_pickle=True)
    return path


def batches_of(dataset):
    """Updates of one padded length each, in the order of the chunk ids."""
    lengths = padded_lengths(dataset.lengths)
    rows = []
    for length in np.unique(lengths).tolist():
        ids, size = np.flatnonzero(lengths == length), BATCH_TOKENS // length
        rows += ids[: len(ids) // size * size].reshape(-1, size).tolist()
    return rows


def test_lments_files_go_the_whole_way_to_the_text_of_a_step(tmp_path, write_lment, tokenizer, run_cli):
    folder = write_lment(DOCUMENTS[:3], DOCUMENTS[3:], shortest=4, longest=16)
    rows = batches_of(open_lment(folder))
    file = save_rows(folder / "dataset-cache" / "batch_indices.npy", rows)
    store, order = tmp_path / "store", tmp_path / "order"
    code, out, err = run_cli("import", "lment", folder, store, "--tokenizer", tokenizer, "--min-length", 4)
    assert code == 0, err
    assert "a tail that LMEnt cuts off" in out
    code, out, err = run_cli("import", "order", folder, order, "--store", store, "--epochs", 2)
    assert (code, err) == (0, "")
    told = f"{2 * len(rows):,} updates in 2 epochs, {2 * sum(map(len, rows)):,} chunks, {order}\n"
    assert out == told
    info = load_order(order).info
    assert info["sources"] == [{"name": "batch_indices.npy", "sha256": hash_file(file)}]
    assert info["store_sha256"] == open_store(store).sha256
    code, out, _ = run_cli("show", store, "--step", 1, "--order", order, "--json")
    assert code == 0
    assert [chunk["chunk_id"] for chunk in json.loads(out)["chunks"]] == rows[0]


def test_without_metadata_no_csv_is_needed(tmp_path, write_lment, tokenizer, run_cli):
    folder = write_lment(DOCUMENTS)
    for file in (folder / "dataset-metadata").iterdir():
        file.unlink()
    words = ["import", "lment", folder, tmp_path / "store", "--tokenizer", tokenizer]
    code, _, err = run_cli(*words)
    assert (code, err.startswith("error: no part-0-00000.csv.gz")) == (2, True)
    code, out, err = run_cli(*words, "--no-metadata")
    assert (code, err) == (0, "")
    assert "6 documents have no line of the CSV" in out
    assert open_store(tmp_path / "store").document("part-0-00000:0").text == WORDS


def test_a_broken_line_is_told_and_the_import_goes_on(tmp_path, write_lment, tokenizer, run_cli):
    folder = write_lment(DOCUMENTS, packed=False)
    file = folder / "dataset-metadata" / "part-0-00000.csv"
    file.write_bytes(file.read_bytes().replace(b"[(0, ", b"[(0; ", 1))
    code, out, _ = run_cli("import", "lment", folder, tmp_path / "store", "--tokenizer", tokenizer)
    assert code == 0
    assert "1 lines of the CSV could not be used, they are listed in dropped.parquet" in out
    assert "dropped: offsets are no list of pairs of numbers" in " ".join(out.split())


def test_an_order_of_another_dataset_is_refused(tmp_path, write_lment, tokenizer, run_cli):
    folder = write_lment(DOCUMENTS, shortest=4, longest=16)
    dataset = open_lment(folder)
    out = tmp_path / "order"
    lengths = padded_lengths(dataset.lengths)
    mixed = [int(np.flatnonzero(lengths == size)[0]) for size in (4, 16)]
    for rows, words in (
        ([[0], [dataset.num_chunks]], f"has the chunk id {dataset.num_chunks}: the dataset has"),
        ([[2], mixed], r"update 2 has chunks of the padded lengths [4, 16], an update has one"),
    ):
        file = save_rows(tmp_path / "batch_indices.npy", rows)
        code, _, err = run_cli("import", "order", file, out, "--dataset", folder)
        assert (code, words in err, err.count("\n")) == (2, True, 1), err
        assert not out.exists()


def test_an_order_from_the_folder_of_another_dataset_is_refused(tmp_path, write_lment, run_cli):
    folder = write_lment(DOCUMENTS)
    for name, code_expected in (("0" * 64, 2), (open_lment(folder).fingerprint(), 0)):
        place = tmp_path / f"dataset-{name}"
        place.mkdir()
        file = save_rows(place / "batch_indices.npy", [[0]])
        code, _, err = run_cli(
            "import", "order", file, tmp_path / f"order{code_expected}", "--dataset", folder
        )
        assert (code, "its token files have other names or sizes" in err) == (
            code_expected,
            code_expected == 2,
        )


def test_an_order_and_a_store_of_two_lment_datasets_are_told_apart(tmp_path, write_lment, tokenizer, run_cli):
    folder = write_lment(DOCUMENTS)
    store, other = tmp_path / "store", tmp_path / "other"
    assert run_cli("import", "lment", folder, store, "--tokenizer", tokenizer)[0] == 0
    file = save_rows(tmp_path / "batch_indices.npy", [[0]])
    folder.rename(other)
    border = other / "dataset-cache/dataset-common/bucketed-doc-indices-part-0-00000.npy"
    np.fromfile(border, dtype="<u4")[:-2].tofile(border)
    code, _, err = run_cli("import", "order", file, tmp_path / "o", "--dataset", other, "--store", store)
    assert (code, "is of the LMEnt dataset" in err) == (2, True), err


def test_orders_of_olmo_and_pythia_are_imported(tmp_path, run_cli):
    file = tmp_path / "global_indices.npy"
    np.array([3, 1, 0, 2, 4], dtype="<u4").tofile(file)
    code, out, _ = run_cli("import", "order", file, tmp_path / "olmo", "--batch-size", 2)
    assert (code, out) == (0, f"2 updates in 1 epoch, 4 chunks, {tmp_path / 'olmo'}\n")
    assert load_order(tmp_path / "olmo").batch(2).tolist() == [0, 2]
    code, out, _ = run_cli("import", "order", "pythia:2", tmp_path / "pythia")
    assert (code, out) == (0, f"2 updates in 1 epoch, 2,048 chunks, {tmp_path / 'pythia'}\n")
    code, _, _ = run_cli(
        "import", "order", "olmo-core:23:5", tmp_path / "core", "--batch-size", 4, "--updates", 1
    )
    assert code == 0
    assert load_order(tmp_path / "core").batch(1).tolist() == [2, 21, 14, 1]  # golden


def test_a_crafted_file_is_refused_in_one_line(tmp_path, run_cli):
    with open(tmp_path / "batch_indices.npy", "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": (1,)})
        file.write(b"cos\nsystem\n(S'touch " + bytes(tmp_path / "trace") + b"'\ntR.")
    code, out, err = run_cli("import", "order", tmp_path / "batch_indices.npy", tmp_path / "order")
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert "it names 'os.system', which is neither imported nor called here" in err
    assert err.count("\n") == 1
    assert not (tmp_path / "trace").exists()


def test_an_own_order_need_not_be_imported_and_none_is_overwritten(tmp_path, run_cli):
    file = save_rows(tmp_path / "batch_indices.npy", [[0], [1, 2]])
    assert run_cli("import", "order", file, tmp_path / "order")[0] == 0
    code, _, err = run_cli("import", "order", tmp_path / "order", tmp_path / "again")
    assert (code, "is an own data order already" in err) == (2, True)
    code, _, err = run_cli("import", "order", file, tmp_path / "order")
    assert (code, "exists" in err) == (2, True)
    assert run_cli("import", "order", file, tmp_path / "order", "--overwrite")[0] == 0


def test_the_same_file_gives_the_same_bytes(tmp_path, run_cli):
    file = save_rows(tmp_path / "batch_indices.npy", [[0], [1, 2]])
    for name in ("one", "two"):
        assert run_cli("import", "order", file, tmp_path / name)[0] == 0
    for part in ("order.json", "ids.npy", "offsets.npy"):
        assert (tmp_path / "one" / part).read_bytes() == (tmp_path / "two" / part).read_bytes()


def test_every_command_takes_the_published_file_itself(tmp_path, run_cli):
    file = save_rows(tmp_path / "batch_indices.npy", [[4, 1], [2], [0, 3]])
    facts = pa.table({"fact_id": ["f", "g"], "kind": ["shared"] * 2, "chunk_id": [1, 3]})
    pq.write_table(facts, tmp_path / "facts.parquet")
    answers = {
        "step": [0, 0, 3, 3],
        "fact_id": ["f", "g"] * 2,
        "probe_id": ["f", "g"] * 2,
        "rank": [2, 2, 1, 2],
    }
    pq.write_table(pa.table(answers), tmp_path / "answers.parquet")
    words = [tmp_path / "facts.parquet", tmp_path / "answers.parquet"]
    code, _, err = run_cli("dynamics", file, *words, tmp_path / "dynamics")
    assert (code, err) == (0, "")
    dynamics = load_dynamics(tmp_path / "dynamics")
    assert dynamics.facts["first_exposure"].to_pylist() == [1, 3]
    assert dynamics.info["inputs"]["order"] == hash_file(file)
    code, out, err = run_cli("steps-of", file, 3)
    assert (code, "3" in out) == (0, True), err
    log = [{"step": 1, "batch_digest": batch_digest(np.array([4, 1]))}]
    (tmp_path / "metrics.jsonl").write_text(json.dumps(log[0]) + "\n", encoding="utf-8")
    assert run_cli("verify", file, tmp_path / "metrics.jsonl")[0] == 0
    code, _, err = run_cli("dynamics", "pythia:3", *words, tmp_path / "of_pythia")
    assert (code, err) == (0, "")
    assert load_dynamics(tmp_path / "of_pythia").info["inputs"]["order"] == "pythia:3"

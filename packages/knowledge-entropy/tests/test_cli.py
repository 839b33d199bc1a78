import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from typer.testing import CliRunner

from knowledge_entropy import cli
from knowledge_entropy.cli import app
from knowledge_entropy.files import read_coefficients, write_coefficients

GOLDEN = Path(__file__).parent / "golden"
COMMANDS = ("measure", "series", "plot", "resuscitate", "convert")


def invoke(*arguments):
    result = CliRunner().invoke(app, [str(one) for one in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def fail(monkeypatch, capsys, *arguments):
    """The message of a command that ends with 2."""
    monkeypatch.setattr(sys, "argv", ["knowledge-entropy", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2
    return capsys.readouterr().err


@pytest.fixture
def run(tmp_path, make_family):
    """Three checkpoints of a tiny model and twelve rows."""
    for step in (0, 5, 10):
        make_family("olmo2", seed=step).save_pretrained(tmp_path / "run" / f"step{step}")
    np.save(tmp_path / "rows.npy", np.random.default_rng(0).integers(2, 60, (12, 9)))
    return tmp_path


def test_help_names_the_commands_and_does_not_import_torch():
    code = (
        "import sys, knowledge_entropy.cli as cli; sys.argv = ['knowledge-entropy', *sys.argv[1:]]\n"
        "try: cli.main()\n"
        "except SystemExit as stop: assert not stop.code\n"
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers')))"
    )
    for arguments in (["--help"], ["series", "--help"]):
        done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
    assert all(command in invoke("--help") for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_an_example(command):
    assert f"Example: knowledge-entropy {command} " in invoke(command, "--help")


def test_measuring_the_golden_model_prints_its_entropy(tmp_path):
    with np.load(GOLDEN / "inputs.npz") as arrays:
        np.save(tmp_path / "a.npy", arrays["A_input_ids"])
    out = tmp_path / "out"
    printed = invoke("measure", GOLDEN / "tiny_olmo_hf", out, "--tokens", tmp_path / "a.npy", "--json")
    (total,) = json.loads(printed)["totals"]
    assert total["entropy"] == pytest.approx(13.458837, abs=1e-6)
    assert total["maximum"] == pytest.approx(3 * np.log(128))
    tensors, metadata = read_coefficients(out / "coefficients" / "tiny_olmo_hf.safetensors")
    assert (tensors["mean_abs"].shape, metadata["rows"]) == ((3, 128), "10")


def test_a_series_is_continued_and_has_the_same_bytes(run, monkeypatch):
    arguments = (
        "series",
        run / "run",
        run / "out",
        "--tokens",
        run / "rows.npy",
        "--section",
        run / "s.json",
    )
    printed = invoke(*arguments)
    assert [line.split()[0] for line in printed.splitlines()] == ["model", "step0", "step5", "step10"]
    files = {path: path.read_bytes() for path in (run / "out").rglob("*") if path.is_file()}
    table = pq.read_table(run / "out" / "layers.parquet")
    assert table.schema.metadata[b"format"] == b"entropies"
    assert table["step"].to_pylist() == [0, 0, 5, 5, 10, 10]
    totals = pq.read_table(run / "out" / "totals.parquet").to_pydict()
    assert totals["change"][0] is None
    assert totals["change"][1] == pytest.approx(totals["entropy"][1] - totals["entropy"][0])
    assert json.loads((run / "s.json").read_text(encoding="utf-8"))["format"] == "report-section"
    (run / "out" / "coefficients" / "step5.safetensors").unlink()
    measured = []
    from knowledge_entropy import series

    real = series.measure
    monkeypatch.setattr(series, "measure", lambda *args, **rest: measured.append(1) or real(*args, **rest))
    assert invoke(*arguments) == printed
    assert len(measured) == 1
    assert {path: path.read_bytes() for path in files} == files


def test_with_a_target_error_all_checkpoints_see_the_first_ones_rows(run):
    out = run / "out"
    arguments = ("--tokens", run / "rows.npy", "--target-se", "9", "--blocks", "12", "--json")
    content = json.loads(invoke("series", run / "run", out, *arguments))
    assert content["tokens"]["rows"] == 8
    rows = [read_coefficients(path)[1]["rows"] for path in (out / "coefficients").iterdir()]
    assert rows == ["8", "8", "8"]
    assert json.loads(invoke("series", run / "run", out, *arguments)) == content


def test_a_target_error_that_was_not_reached_is_said(run):
    arguments = ("measure", run / "run" / "step0", run / "out", "--tokens", run / "rows.npy")
    words = "for --target-se 1e-06 give more rows"
    result = CliRunner().invoke(app, [*map(str, arguments), "--target-se", "1e-6"], catch_exceptions=False)
    assert (result.exit_code, words in result.stderr) == (0, True)
    result = CliRunner().invoke(app, [*map(str, arguments), "--target-se", "9", "--overwrite"])
    assert (result.exit_code, "give more rows" in result.stderr) == (0, False)


def test_the_step_by_which_all_rows_were_seen_is_reported(run):
    store, order = run / "store", run / "order"
    for folder, kind in ((store, "chunk-store"), (order, "data-order")):
        folder.mkdir()
        name = "meta.json" if folder == store else "order.json"
        (folder / name).write_text(json.dumps({"format": kind, "version": 1}), encoding="utf-8")
    np.save(store / "tokens.npy", np.arange(2, 14, dtype="<u4"))
    chunks = {"chunk_id": [0, 1, 2, 3], "token_start": [0, 3, 6, 9], "length": [3, 3, 3, 3]}
    pq.write_table(pa.table(chunks), store / "chunks.parquet")
    np.save(order / "offsets.npy", np.arange(0, 9, 1))
    np.save(order / "ids.npy", np.array([3, 1, 0, 3, 1, 0, 2, 2]))
    arguments = [
        "series",
        run / "run",
        run / "out",
        "--tokens",
        store,
        "--order",
        order,
        "--section",
        run / "s.json",
    ]
    result = CliRunner().invoke(app, [*map(str, arguments)], catch_exceptions=False)
    assert "8 rows, 24 tokens, all trained on by step 7" in result.stderr
    assert "step 0 had not trained on all of them yet (the paper takes seen rows)" in result.stderr
    content = json.loads((run / "out" / "series.json").read_text(encoding="utf-8"))
    assert content["tokens"]["first_seen_step"] == 7
    assert (
        "all of them trained on by step 7"
        in json.loads((run / "s.json").read_text(encoding="utf-8"))["summary"]
    )


def test_figures_are_drawn_of_a_series(run):
    invoke("series", run / "run", run / "out", "--tokens", run / "rows.npy")
    printed = invoke("plot", run / "out", run / "figures")
    names = ["entropy.png", "layers.png", "correlation.png"]
    assert printed.split() == [str(run / "figures" / name) for name in names]
    assert all((run / "figures" / name).read_bytes().startswith(b"\x89PNG") for name in names)


def test_resuscitation_measures_what_it_wrote(run):
    model, out = f"{run / 'run'}:step5", run / "out"
    invoke("measure", model, out, "--tokens", run / "rows.npy")
    printed = invoke(
        *(
            "resuscitate",
            model,
            out / "coefficients" / "step5.safetensors",
            run / "new",
            "--tokens",
            run / "rows.npy",
        ),
        *("--ratio", "0.5", "--factor", "2", "--json"),
    )
    first = json.loads(printed)["layers"][0]
    assert first["units_scaled"] == 12
    assert first["coefficient_after"] == pytest.approx(first["coefficient_expected"], rel=1e-5)


def test_mistakes_are_one_sentence(run, monkeypatch, capsys):
    rows = ("--tokens", run / "rows.npy")
    (run / "full").mkdir()
    (run / "full" / "thesis.txt").write_text("mine", encoding="utf-8")
    for arguments, words in (
        (("measure", run / "run" / "step0", run / "full", *rows), "exists and is no series"),
        (("measure", "./nowhere", run / "o", *rows), "there is no folder './nowhere'"),
        (("measure", run / "run" / "step0", run / "o", "--tokens", run / "no.npy"), "there are no tokens at"),
        (("measure", run / "run" / "step0", run / "o", *rows, "--rows", 99), "99 rows are asked for"),
        (("measure", run / "run" / "step0", run / "o", *rows, "--dtype", "int8"), "--dtype int8"),
        (("measure", run / "run" / "step0", run / "o", *rows, "--device", "x"), "device 'x' cannot be used"),
        (("measure", run / "run" / "step0", run / "o", *rows, "--order", run), "--order names chunks"),
        (("series", run / "run", run / "run" / "step0", run / "o", *rows), "are called 'step0'"),
        (("plot", run / "full", run / "o"), "no entropy-totals table"),
    ):
        message = fail(monkeypatch, capsys, *arguments).splitlines()[-1]
        assert message.startswith("error: ")
        assert words in message
    assert (run / "full" / "thesis.txt").read_text(encoding="utf-8") == "mine"


def test_coefficients_are_read_back_equal_and_other_versions_refused(tmp_path):
    path = tmp_path / "c.safetensors"
    values = np.random.default_rng(0).random((2, 3))
    write_coefficients(path, {"mean_abs": values, "block_weights": np.ones(1)}, {"rows": "1"})
    tensors, metadata = read_coefficients(path)
    assert np.array_equal(tensors["mean_abs"], values)
    assert metadata == {"format": "coefficients", "version": "1", "rows": "1"}
    write_coefficients(path, {"mean_abs": values}, {"version": "2"})
    with pytest.raises(ValueError, match="'coefficients' version '2'"):
        read_coefficients(path)
    path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match="no safetensors file"):
        read_coefficients(path)
    torch.save(torch.ones(3), tmp_path / "c.pt")
    with pytest.raises(ValueError, match=r"no \(layer, unit\) tensor"):
        read_coefficients(tmp_path / "c.pt")

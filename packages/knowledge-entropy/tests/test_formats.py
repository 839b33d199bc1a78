"""Files of version 1 are read for ever, and written as they were: a change of format shows here."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from knowledge_entropy.coefficients import Coefficients
from knowledge_entropy.files import read_coefficients, read_table, write_coefficients
from knowledge_entropy.measure import Measurement, Options
from knowledge_entropy.reference import Reference
from knowledge_entropy.revive import Request, revive
from knowledge_entropy.series import Checkpoint, read_result, write_result, write_tables
from knowledge_entropy.tokens import from_rows

OWN = Path(__file__).parent / "golden" / "own"
MODEL = Path(__file__).parent / "golden" / "tiny_olmo_hf"
KEY = "5" * 64
SUMS = np.array([[[2.0, 2.0, 0.0, 4.0], [1.0, 1.0, 1.0, 1.0]], [[2.0, 6.0, 0.0, 0.0], [3.0, 1.0, 1.0, 3.0]]])
TOKENS = from_rows([[1, 2], [3, 4]], source="2 rows of an array", seen_at=np.array([1, 3]))
OPTIONS = Options(blocks=2, attention=True, next_token=True)


def checkpoint(step, sums, attention, next_token):
    """Two blocks of two tokens each, two layers of four units."""
    coefficients = Coefficients(sums, np.array([2.0, 2.0]))
    result = Measurement(coefficients, TOKENS, OPTIONS, np.array(attention), next_token)
    return Checkpoint(Reference("run", None, f"step{step}"), result)


@pytest.fixture
def checkpoints():
    return [checkpoint(0, SUMS, [0.5, 1.0], 1.25), checkpoint(10, SUMS[:, ::-1] + 1, [0.25, 0.75], 1.0)]


def test_coefficients_are_written_to_the_byte_as_they_were(checkpoints, tmp_path):
    write_result(tmp_path / "step0.safetensors", checkpoints[0].result, KEY)
    assert (tmp_path / "step0.safetensors").read_bytes() == (OWN / "step0.safetensors").read_bytes()


def test_coefficients_of_version_1_are_read(checkpoints):
    tensors, metadata = read_coefficients(OWN / "step0.safetensors")
    assert metadata == {
        "format": "coefficients",
        "version": "1",
        "key": KEY,
        "tokens_sha256": TOKENS.sha256,
        "rows": "2",
        "tokens": "4",
        "weighting": "token",
        "compat": "none",
    }
    # Sums over both blocks, over four tokens.
    assert tensors["mean_abs"].tolist() == [[1.0, 2.0, 0.0, 1.0], [1.0, 0.5, 0.5, 1.0]]
    found = read_result(OWN / "step0.safetensors", TOKENS, OPTIONS, KEY)
    assert np.array_equal(found.coefficients.block_sums, SUMS)
    assert found.layers["zero_units"].tolist() == [1, 0]
    assert (found.attention_entropy.tolist(), found.next_token_entropy) == ([0.5, 1.0], 1.25)


def test_tables_are_written_as_they_were(checkpoints, tmp_path):
    write_tables(checkpoints, tmp_path)
    for name, kind in (("layers", "entropies"), ("totals", "entropy-totals")):
        new, old = (read_table(folder / f"{name}.parquet", kind) for folder in (tmp_path, OWN))
        assert new.schema.equals(old.schema, check_metadata=True)
        for column in old.column_names:
            if str(old.schema.field(column).type) == "double":
                values = [[np.nan if v is None else v for v in t[column].to_pylist()] for t in (new, old)]
                np.testing.assert_allclose(*values, rtol=1e-12, err_msg=column)
            else:
                assert new[column].to_pylist() == old[column].to_pylist()
    new, old = (
        json.loads((folder / "series.json").read_text(encoding="utf-8")) for folder in (tmp_path, OWN)
    )
    assert near(new) == near(old)


def near(value):
    """The same, numbers to ten digits."""
    if isinstance(value, dict):
        return {name: near(one) for name, one in value.items()}
    if isinstance(value, list):
        return [near(one) for one in value]
    return float(f"{value:.10g}") if isinstance(value, float) else value


def test_the_numbers_of_the_tables_are_those_by_hand():
    rows = pq.read_table(OWN / "layers.parquet").to_pylist()
    assert [(row["model"], row["step"], row["layer"], row["width"], row["zero_units"]) for row in rows] == [
        ("step0", 0, 0, 4, 1),
        ("step0", 0, 1, 4, 0),
        ("step10", 10, 0, 4, 0),
        ("step10", 10, 1, 4, 0),
    ]
    # Coefficients 1, 2, 0, 1: a half and two quarters have 1.5 bits of 2.
    assert rows[0]["entropy"] == pytest.approx(1.5 * np.log(2))
    assert rows[0]["deficit"] == pytest.approx(0.5 * np.log(2))
    assert rows[0]["spread"] == pytest.approx(2**1.5 / 4)
    assert (rows[0]["change"], rows[0]["rank_correlation"]) == (None, None)
    assert rows[2]["change"] == pytest.approx(rows[2]["entropy"] - rows[0]["entropy"])
    total = json.loads((OWN / "series.json").read_text(encoding="utf-8"))
    assert total["tokens"]["first_seen_step"] == 3
    assert total["totals"][0]["deficit"] == pytest.approx(rows[0]["deficit"] + rows[1]["deficit"])


def test_a_resuscitation_is_recorded_as_it_was(tmp_path):
    coefficients = np.tile(np.arange(128.0), (3, 1))  # unit 0 is dead
    write_coefficients(tmp_path / "c.safetensors", {"mean_abs": coefficients}, {})
    request = Request(str(MODEL), tmp_path / "c.safetensors", 0.25, 2.0, max_multiplier=100.0)
    revive(request, tmp_path / "out", None, device=torch.device("cpu"))
    new, old = (
        json.loads((folder / "resuscitation.json").read_text(encoding="utf-8"))
        for folder in (tmp_path / "out", OWN)
    )
    assert near(new) == near(old)
    # The quartile of 0 ... 127 is 31.75: units 1 to 31 are scaled by 2 * 63.5 / c, the first one by 100 only.
    assert old["layers"][0] == {
        "layer": 0,
        "units_scaled": 31,
        "dead_units_skipped": 1,
        "capped_units": 1,
        "smallest_multiplier": pytest.approx(127 / 31),
        "largest_multiplier": 100.0,
    }


@pytest.mark.parametrize("name", ["layers.parquet", "totals.parquet"])
def test_a_table_of_another_version_is_refused(name, tmp_path):
    table = pq.read_table(OWN / name)
    pq.write_table(
        table.replace_schema_metadata({**table.schema.metadata, b"version": b"2"}), tmp_path / name
    )
    with pytest.raises(ValueError, match="version '2', this release reads"):
        read_table(tmp_path / name, table.schema.metadata[b"format"].decode())

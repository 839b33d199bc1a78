import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from entity_index.query import SOURCES
from entity_index.records import (
    arrange,
    describe_records,
    field_widths,
    join_fields,
    open_records,
    writers_of,
)
from entity_index.scores import COLUMNS, ScoreCode, as_hundredths, choose_codes, decode_sum, expected_score

hundredths = st.integers(0, 130).map(lambda number: float(np.float32(number / 100)))
others = st.floats(0, 1, width=32)
KINDS = {"hundredths": hundredths, "others": others}


def coded(columns):
    """The codes of some scores, chosen as a build chooses them."""
    whole = {name: as_hundredths(column) for name, column in columns.items()}
    seen = {
        name: None if column is None else np.bincount(column, minlength=256) > 0
        for name, column in whole.items()
    }
    differences = None
    if None not in [type(column) if column is not None else None for column in whole.values()]:
        beyond = whole["score"].astype(np.int16) - expected_score({name: whole[name] for name in SOURCES})
        differences = np.bincount(beyond + 256, minlength=512) > 0
        numbers = {**whole}
    codes = choose_codes(seen, differences)
    numbers = {name: columns[name] if codes[name].kind == "float" else whole[name] for name in COLUMNS}
    if codes["score"].kind == "sum":
        numbers["score"] = beyond
    return codes, {name: codes[name].encode(numbers[name]) for name in COLUMNS}


@pytest.mark.parametrize("kind", list(KINDS))
@settings(deadline=None)
@given(data=st.data())
def test_scores_come_back_exactly(kind, data, tmp_path_factory):
    count = data.draw(st.integers(1, 20))
    drawn = {name: data.draw(st.lists(KINDS[kind], min_size=count, max_size=count)) for name in COLUMNS}
    columns = {name: np.array(values, dtype=np.float32) for name, values in drawn.items()}
    codes, values = coded(columns)
    for source in SOURCES:
        assert codes[source].floats(values[source]).tolist() == drawn[source]
        for least in (0.0, 0.3, 0.6, 0.61, 1.0):
            expected = (columns[source] >= np.float32(least)).tolist()
            assert codes[source].at_least(values[source], least).tolist() == expected
    assert decode_sum(values, codes).tolist() == drawn["score"]
    places = {name: np.arange(count, dtype=np.uint64) for name in ("char_start", "length", "place")}
    folder = tmp_path_factory.mktemp("records")
    fields = arrange(field_widths(dict.fromkeys(places, count - 1), codes))
    writers = writers_of(folder, fields)
    for writer, numbers in zip(writers, join_fields(fields, {**places, **values}), strict=True):
        with writer:
            writer.append(numbers)
    (found,) = open_records(folder, describe_records(fields, codes)).read([(0, count)])
    rows = zip(*(drawn[name] for name in COLUMNS), strict=True)
    assert found == [(i, 2 * i, *row, i) for i, row in enumerate(rows)]


def test_published_sums_take_a_bit_or_two():
    rng = np.random.default_rng(0)
    sources = {name: rng.integers(0, 101, 1000) / 100 for name in SOURCES}
    total = sum(sources[name] * weight for name, weight in zip(SOURCES, (4, 3, 2, 1), strict=True))
    columns = {name: values.astype(np.float32) for name, values in sources.items()}
    codes, _ = coded({"score": (total / 10).round(2).astype(np.float32), **columns})
    assert codes["score"].kind == "sum"
    assert set(codes["score"].values) <= {0, 1}


def test_one_other_score_makes_a_column_float():
    assert as_hundredths(np.array([0.5, 0.123], dtype=np.float32)) is None
    assert as_hundredths(np.array([0.57, 2.56], dtype=np.float32)) is None
    assert ScoreCode("float").width == 32
    assert ScoreCode("hundredths", (0, 100)).width == 1


def test_fields_that_do_not_fit_go_into_further_numbers():
    fields = arrange({"a": 30, "b": 30, "c": 27, "d": 0})
    assert {name: tuple(field) for name, field in fields.items()} == {
        "a": (0, 0, 30),
        "b": (1, 0, 30),
        "c": (0, 30, 27),
        "d": (0, 57, 0),
    }

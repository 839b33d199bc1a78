import io
import os
import pickle
import struct
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chunk_provenance import FormatError
from chunk_provenance.published.object_arrays import read_rows

GOLDEN = Path(__file__).parent / "golden" / "published"
INTEGERS = [f"{order}{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8) for order in "<>"]


def save_rows(path, rows, *, protocol=None):
    """An object array of rows, as np.save writes it (or with another pickle protocol)."""
    array = np.empty(len(rows), dtype=object)
    for number, row in enumerate(rows):
        array[number] = row
    if protocol is None:
        np.save(path, array, allow_pickle=True)
    else:
        write_pickled(path, pickle.dumps(array, protocol=protocol), num_rows=len(rows))


def write_pickled(path, content, *, num_rows):
    """A .npy file of an object array with any bytes where its pickle belongs."""
    with open(path, "wb") as file:
        header = {"descr": "|O", "fortran_order": False, "shape": (num_rows,)}
        np.lib.format.write_array_header_1_0(file, header)
        file.write(content)


def listed(rows):
    offsets, ids = rows
    return [ids[begin:end].tolist() for begin, end in pairwise(offsets)]


class Calls:
    """Pickles as a call of a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def integer_rows():
    def of_type(name):
        limits = np.iinfo(name)
        values = st.integers(int(limits.min), min(int(limits.max), 2**63 - 1))
        return st.lists(st.lists(values, max_size=9).map(lambda row: np.array(row, dtype=name)), max_size=9)

    return st.sampled_from(INTEGERS).flatmap(of_type)


@given(integer_rows(), st.sampled_from([None, 3, 4]))
def test_ragged_rows_of_any_integer_type_come_back(tmp_path_factory, rows, protocol):
    path = tmp_path_factory.mktemp("rows") / "batch_indices.npy"
    save_rows(path, rows, protocol=protocol)
    assert listed(read_rows(path)) == [row.tolist() for row in rows]


def test_a_file_that_numpy_1_wrote_is_read_like_one_of_numpy_2(tmp_path):
    path = GOLDEN / "batch_indices_epoch_1.npy"
    assert b"numpy.core.multiarray" in path.read_bytes()
    rows = np.load(path, allow_pickle=True)  # our own file
    np.save(tmp_path / "again.npy", rows, allow_pickle=True)
    assert listed(read_rows(path)) == listed(read_rows(tmp_path / "again.npy")) == [r.tolist() for r in rows]


@pytest.mark.parametrize("dtype", [object, np.int64, np.uint16])
def test_rows_of_equal_length_that_numpy_made_a_matrix_come_back(tmp_path, dtype):
    rows = [[5, 70_000 % 60_000, 3], [1, 2, 999]]
    np.save(tmp_path / "m.npy", np.array(rows, dtype=dtype), allow_pickle=True)
    assert listed(read_rows(tmp_path / "m.npy")) == rows


def test_numbers_of_every_size_in_a_matrix_of_objects_come_back(tmp_path):
    rows = [[0, 255, 256, 65_535], [65_536, 2**31, 2**63 - 1, -(2**40)]]
    np.save(tmp_path / "m.npy", np.array(rows, dtype=object), allow_pickle=True)
    assert listed(read_rows(tmp_path / "m.npy")) == rows


def test_a_row_that_stands_twice_in_the_array_comes_back_twice(tmp_path):
    row = np.array([4, 5])
    save_rows(tmp_path / "b.npy", [row, np.array([1]), row])
    assert listed(read_rows(tmp_path / "b.npy")) == [[4, 5], [1], [4, 5]]


def test_a_file_without_rows_gives_no_rows(tmp_path):
    save_rows(tmp_path / "b.npy", [])
    assert listed(read_rows(tmp_path / "b.npy")) == []


ATTACKS = {
    "a command": lambda trace: pickle.dumps(Calls(os.system, f"touch {trace}")),
    "eval": lambda trace: pickle.dumps(Calls(eval, f"open({str(trace)!r}, 'w')")),
    "open": lambda trace: pickle.dumps(Calls(open, str(trace), "w")),
    "a command inside a list": lambda trace: pickle.dumps([np.arange(3), Calls(os.system, f"touch {trace}")]),
    "a command in protocol 0": lambda trace: pickle.dumps(Calls(os.system, f"touch {trace}"), protocol=0),
    "the old INST instruction": lambda trace: b"(S'touch " + bytes(trace) + b"'\nios\nsystem\n.",
    "the OBJ instruction": lambda trace: b"(cos\nsystem\nS'touch " + bytes(trace) + b"'\no.",
    "a numpy function": lambda trace: pickle.dumps(Calls(np.save, str(trace), np.arange(2))),
    "numpy's own loader": lambda trace: b"cnumpy\nload\n(S'x'\ntR.",
    "an attribute of a known name": lambda trace: b"\x80\x04\x8c\x05numpy\x8c\x0fndarray.tofile\x93.",
    "a persistent id": lambda trace: b"\x80\x04\x8c\x01xQ.",
    "an old persistent id": lambda trace: b"Px\n.",
    "an extension code": lambda trace: b"\x80\x02\x82\x01.",
    "a global variable": lambda trace: b"cbuiltins\n__dict__\n.",
    "a class with state": lambda trace: pickle.dumps(Path(trace)),
    "a buffer outside the file": lambda trace: b"\x80\x05\x97.",
    "a set": lambda trace: pickle.dumps({1, 2}),
    "a dictionary": lambda trace: pickle.dumps({"a": np.arange(3)}),
    "a name without an end": lambda trace: b"c" + b"n" * 500,
    "a name made of nested tuples": lambda trace: b"\x80\x04)" + b"\x85" * 100_000 + b"\x8c\x01x\x93.",
    "an unknown instruction": lambda trace: b"\x80\x04\xff.",
    "nothing at all": lambda trace: b"",
    "a stack that is empty": lambda trace: b"\x80\x04\x85.",
    "a mark that is missing": lambda trace: b"\x80\x04Nt.",
    "a value never stored": lambda trace: b"\x80\x04h\x07.",
    "two values": lambda trace: b"\x80\x04NN.",
    "only a number": lambda trace: b"\x80\x04K\x01.",
    "only a list": lambda trace: b"\x80\x04].",
    "text that is not UTF-8": lambda trace: b"\x80\x04\x8c\x02\xff\xfe.",
    "text of 2**40 bytes": lambda trace: b"\x80\x04\x8d" + struct.pack("<Q", 2**40) + b"x.",
    "bytes of 2**62 bytes": lambda trace: b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"x.",
    "a place 2**32 - 1 in the memo": lambda trace: b"\x80\x04Nr\xff\xff\xff\xff.",
    "bytes after the end": lambda trace: outer_array(inner_array() + b"a") + b"x",
}


@pytest.mark.parametrize("name", ATTACKS)
def test_a_crafted_pickle_executes_nothing_and_gets_one_sentence(tmp_path, name):
    trace, path = tmp_path / "trace", tmp_path / "b.npy"
    write_pickled(path, ATTACKS[name](trace), num_rows=1)
    with pytest.raises(FormatError) as found:
        read_rows(path)
    assert not trace.exists()
    assert str(found.value).startswith(f"{str(path)!r} is no file of integer arrays: ")
    assert "\n" not in str(found.value)
    assert len(str(found.value)) < len(str(path)) + 250


def test_the_refusal_names_the_function_that_the_file_asked_for(tmp_path):
    write_pickled(tmp_path / "b.npy", ATTACKS["a command"](tmp_path / "trace"), num_rows=1)
    with pytest.raises(FormatError, match=r"it names 'posix\.system', which is neither imported nor called"):
        read_rows(tmp_path / "b.npy")


def outer_array(rows, *, shape=b"K\x01\x85", end=b""):
    """The pickle of an object array whose list of rows is given as instructions."""
    return (
        b"\x80\x04cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R(K\x01"
        + shape
        + b"cnumpy\ndtype\n\x8c\x02O8\x89\x88\x87R(K\x03\x8c\x01|"
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK?tb\x89]"
        + rows
        + b"tb"
        + end
        + b"."
    )


def inner_array(*, name=b"\x8c\x02i8", shape=b"K\x01\x85", content=b"C\x08\x05\0\0\0\0\0\0\0", order=b"<"):
    return (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R(K\x01"
        + shape
        + b"cnumpy\ndtype\n"
        + name
        + b"\x89\x88\x87R(K\x03\x8c\x01"
        + order
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
        + content
        + b"tb"
    )


def test_an_array_written_by_hand_is_read(tmp_path):
    """So that the cases below are refused for what they change and not for something else."""
    write_pickled(tmp_path / "b.npy", outer_array(inner_array() + b"a"), num_rows=1)
    assert listed(read_rows(tmp_path / "b.npy")) == [[5]]


MALFORMED = {
    "elements are text": inner_array(name=b"\x8c\x02U2") + b"a",
    "elements are floats": inner_array(name=b"\x8c\x02f8") + b"a",
    "elements are booleans": inner_array(name=b"\x8c\x02b1") + b"a",
    "elements are references": inner_array(name=b"\x8c\x02O8", order=b"|") + b"a",
    "elements are void": inner_array(name=b"\x8c\x02V8", order=b"|") + b"a",
    "an element type of a long name": inner_array(name=b"X" + struct.pack("<I", 9000) + b"i" * 9000) + b"a",
    "an element type of no text": inner_array(name=b"K\x08") + b"a",
    "fewer bytes than the shape says": inner_array(shape=b"K\x02\x85") + b"a",
    "more bytes than the shape says": inner_array(shape=b"K\x00\x85") + b"a",
    "a shape of 2**62": inner_array(shape=b"\x8a\x08\0\0\0\0\0\0\0\x40\x85") + b"a",
    "a negative shape": inner_array(shape=b"J\xff\xff\xff\xff\x85") + b"a",
    "a shape of text": inner_array(shape=b"\x8c\x011\x85") + b"a",
    "a row that is a matrix": inner_array(shape=b"K\x01K\x01\x86") + b"a",
    "a row that is a number": b"K\x05a",
    "a row that is a list": b"]K\x05aa",
    "a row that is nothing": b"Na",
    "a row never filled": b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87Ra",
    "content that is text": inner_array(content=b"\x8c\x08abcdefgh") + b"a",
    "more rows than the shape says": inner_array() + b"a" + inner_array() + b"a",
    "no rows": b"",
}


@pytest.mark.parametrize("name", MALFORMED)
def test_an_array_of_anything_else_is_refused(tmp_path, name):
    write_pickled(tmp_path / "b.npy", outer_array(MALFORMED[name]), num_rows=1)
    with pytest.raises(FormatError, match="is no file of integer arrays") as found:
        read_rows(tmp_path / "b.npy")
    assert len(str(found.value)) < len(str(tmp_path)) + 250


def test_a_small_file_cannot_ask_for_a_huge_array_by_repeating_a_row(tmp_path):
    row = inner_array(
        shape=b"M\xff\xff\x85", content=b"B" + struct.pack("<I", 65_535 * 8) + bytes(65_535 * 8)
    )
    repeats = 60_000
    rows = row + b"\x94a" + b"h\x00a" * (repeats - 1)
    write_pickled(tmp_path / "b.npy", outer_array(rows, shape=b"M\x60\xea\x85"), num_rows=repeats)
    with pytest.raises(FormatError, match="its rows hold more than the whole file does"):
        read_rows(tmp_path / "b.npy")


@given(st.data())
def test_a_damaged_file_gives_rows_of_integers_or_one_sentence(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("damaged") / "b.npy"
    save_rows(path, [np.arange(300), np.array([7]), np.array([2, 3], dtype=np.uint8)])
    content = bytearray(path.read_bytes())
    begin = content.index(b"\n") + 1
    places = st.integers(0, len(content) - 1)
    for place in data.draw(st.lists(places | st.integers(begin, begin + 300), max_size=3)):
        content[place] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(places | st.just(len(content)))])
    try:
        offsets, ids = read_rows(path)
    except FormatError:
        return
    assert ids.dtype == np.int64
    assert offsets[-1] == len(ids)


@given(st.binary(max_size=60))
def test_no_bytes_whatever_raise_anything_but_one_sentence(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("bytes") / "b.npy"
    write_pickled(path, content + b".", num_rows=1)
    with pytest.raises(FormatError):
        read_rows(path)


@pytest.mark.parametrize("kept", [0, 3, 60, 200, 2_000])
def test_a_file_that_is_cut_off_is_refused(tmp_path, kept):
    save_rows(tmp_path / "b.npy", [np.arange(500), np.arange(3)])
    content = (tmp_path / "b.npy").read_bytes()
    (tmp_path / "b.npy").write_bytes(content[:kept])
    with pytest.raises(FormatError, match="is no file of integer arrays"):
        read_rows(tmp_path / "b.npy")


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.array([0.5, 1.5]), "float64"),
        (np.arange(3), r"shape \(3,\), expected integers in 2"),
        (np.array([np.array([0.5]), np.array([1, 2])], dtype=object), "its elements are 'f8'"),
        (np.array([np.array(["a"]), None], dtype=object), "is not as numpy writes it"),
        (
            np.array([np.array([2**64 - 1], dtype=np.uint64), np.arange(2)], dtype=object),
            "too large",
        ),
        (np.array([[2**70, 1]], dtype=object), "beyond 64 bits"),
        (np.array([["a", 1]], dtype=object), "expected one array a row"),
        (np.asfortranarray(np.arange(6).reshape(2, 3)), "column by column"),
    ],
)
def test_arrays_of_other_things_are_refused_by_name(tmp_path, array, words):
    np.save(tmp_path / "b.npy", array, allow_pickle=True)
    with pytest.raises(FormatError, match=words):
        read_rows(tmp_path / "b.npy")


@pytest.mark.parametrize(
    "header", [b"{" * 4000, b"-" * 9000 + b"1", b"()", b"{'descr': 'O'}", b"\xff\xfe", b""]
)
def test_a_crafted_header_is_refused(tmp_path, header):
    content = io.BytesIO()
    content.write(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + b"\x80\x04].")
    (tmp_path / "b.npy").write_bytes(content.getvalue())
    with pytest.raises(FormatError, match="does not begin as"):
        read_rows(tmp_path / "b.npy")


def test_a_missing_file_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file at"):
        read_rows(tmp_path / "none.npy")

import json
import struct

import numpy as np
import pytest

from model_merge.header import FormatError, read_header, write_header


@pytest.fixture
def write(tmp_path):
    def write(header, data=b"", *, length=None):
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        path = tmp_path / "model.safetensors"
        path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
        return path

    return write


def entry(start, end, *, dtype="U8", shape=None):
    return {"dtype": dtype, "shape": [end - start] if shape is None else shape, "data_offsets": [start, end]}


def test_what_is_written_is_read_back(tmp_path):
    tensors = {"a": ("F32", (2, 3)), "empty": ("BF16", (0, 4)), "scalar": ("F64", ()), "c": ("U8", (3,))}
    header, starts = write_header(tensors)
    path = tmp_path / "model.safetensors"
    path.write_bytes(header + bytes(24 + 8 + 3))
    found = read_header(path)
    assert {name: (one.dtype, one.shape) for name, one in found.items()} == tensors
    assert {name: one.start for name, one in found.items()} == starts
    assert (starts["scalar"] % 8, starts["a"] % 4) == (0, 0)


def test_a_file_we_write_is_opened_by_the_safetensors_library(tmp_path):
    library = pytest.importorskip("safetensors.numpy", reason="the extra `eval` is not installed")
    header, _ = write_header({"a": ("F32", (2, 3)), "c": ("U8", (3,)), "d": ("F64", (1,))})
    data = np.arange(24 + 3 + 8, dtype=np.uint8).tobytes()
    (tmp_path / "model.safetensors").write_bytes(header + data)
    found = library.load_file(tmp_path / "model.safetensors")
    assert found["d"].tobytes() + found["a"].tobytes() + found["c"].tobytes() == data


@pytest.mark.parametrize(
    ("header", "data", "message"),
    [
        ({"a": entry(0, 4), "b": entry(2, 6)}, bytes(6), "the bytes of 'a' and 'b' overlap at 2"),
        ({"a": entry(0, 4), "b": entry(6, 8)}, bytes(8), "bytes 4 to 6 before 'b' belong to no tensor"),
        ({"a": entry(0, 4)}, bytes(3), "is cut short"),
        ({"a": entry(0, 4)}, bytes(5), "has bytes after its last tensor"),
        ({"a": entry(0, 4, shape=[5])}, bytes(4), r"'a' is U8 \[5\], which takes 5 bytes, but its offsets"),
        ({"a": entry(0, 4, shape=[2**63, 2])}, bytes(4), "which takes 18,446,744,073,709,551,616 bytes"),
        ({"a": entry(4, 0, shape=[0])}, bytes(4), "hold -4"),
        ({"a": entry(0, 4, shape=[-4])}, bytes(4), "lacks dtype, shape or data_offsets"),
        ({"a": entry(0, 4, shape=[True])}, bytes(4), "lacks dtype, shape or data_offsets"),
        ({"a": {"dtype": "U8", "shape": [4]}}, bytes(4), "entry of 'a' lacks dtype, shape or data_offsets"),
        ({"a": 7}, b"", "entry of 'a' lacks dtype, shape or data_offsets"),
        ({"a": entry(0, 4, dtype="Q4_K")}, bytes(4), "'a' is of type 'Q4_K', which is none"),
        (b'{"a": 1, "a": 2}', b"", "names tensors twice in its header: 'a'"),
        (b"[1]", b"", "a header that is no JSON object"),
        (b"{", b"", "a header that is no JSON"),
        (b"[" * 100_000, b"", "a header that is no JSON"),
        (b"\xff\xff", b"", "a header that is no JSON"),
    ],
)
def test_a_header_that_the_file_does_not_bear_out_is_refused(write, header, data, message):
    with pytest.raises(FormatError, match=message):
        read_header(write(header, data))


def test_a_header_bomb_is_refused_before_it_is_read(write):
    with pytest.raises(FormatError, match=r"claims a header of 9,223,372,036,854,775,807 bytes"):
        read_header(write({}, length=2**63 - 1))


def test_a_file_that_ends_inside_its_header_is_refused(write):
    with pytest.raises(FormatError, match=r"ends inside its header, at byte 10 of 508"):
        read_header(write({}, length=500))


def test_a_file_shorter_than_a_length_is_refused(tmp_path):
    (tmp_path / "empty.safetensors").write_bytes(b"\0")
    with pytest.raises(FormatError, match="has 1 bytes"):
        read_header(tmp_path / "empty.safetensors")

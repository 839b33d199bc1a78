"""Read `batch_indices.npy` without unpickling: integer arrays come out, nothing else can happen.

Such a file is np.save's object array, that is a pickle of one array that holds an integer array per row. Here
the pickle's instructions are read one by one. Those that such a file needs put together tuples and slices of
the mapped file; names are compared with three that stand for numpy's array, and mean nothing. No instruction
imports, calls or allocates by a size that the file states; any other instruction is refused.

About a second for LMEnt's 109,672 rows with 10.5 M ids; next to the ids, memory for about 500 bytes a row.
"""

import mmap
import re
import struct
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from pickletools import opcodes
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from chunk_provenance.formats import FormatError

Ids = npt.NDArray[np.int64]
INTEGER = re.compile(r"[iu][1248]")


class _Name(Enum):
    """What the names in such a file stand for."""

    reconstruct = "numpy's empty array"
    ndarray = "numpy.ndarray"
    dtype = "numpy.dtype"


NAMES = {
    ("numpy.core.multiarray", "_reconstruct"): _Name.reconstruct,  # written by numpy 1
    ("numpy._core.multiarray", "_reconstruct"): _Name.reconstruct,  # written by numpy 2
    ("numpy", "ndarray"): _Name.ndarray,
    ("numpy", "dtype"): _Name.dtype,
}


class _Array:
    """An array of the file: `rows` of the outer one, or `values` of a row."""

    __slots__ = ("rows", "shape", "values")

    def __init__(self) -> None:
        self.shape: tuple[int, ...] | None = None
        self.values: npt.NDArray[Any] | None = None
        self.rows: list[Any] | None = None


class _DType:
    """An element type of the file: "i8" and the like, or "O8"."""

    __slots__ = ("dtype", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.dtype: np.dtype[Any] | None = None


class _RefusedError(Exception):
    """Something in the file that such a file does not need; the message says what."""


def read_rows(path: str | Path) -> tuple[Ids, Ids]:
    """The rows of a file of integer arrays of unequal length.

    A two-dimensional array of integers, which is what np.save makes of rows of equal length, is read too.

    Returns:
        `offsets` (rows + 1,) and `ids`: row `r` is `ids[offsets[r] : offsets[r + 1]]`.

    Raises:
        FileNotFoundError: there is no such file.
        FormatError: it is cut off, or holds anything but rows of integers; nothing of it was executed.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file at {str(path)!r}")
    try:
        with path.open("rb") as file:
            shape, dtype = read_header(file)
            if dtype != np.dtype(object):
                return _read_plain(path, shape, dtype)
            return _read_pickled(file, shape)
    except _RefusedError as refused:
        raise FormatError(f"{str(path)!r} is no file of integer arrays: {refused}") from None


def read_header(file: BinaryIO) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and element type of a .npy file, which is left at the first byte of its data."""
    try:
        version = np.lib.format.read_magic(file)
        if version == (1, 0):
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
        elif version == (2, 0):
            shape, fortran, dtype = np.lib.format.read_array_header_2_0(file)
        else:
            raise _RefusedError(f".npy version {version[0]}.{version[1]} is none of 1.0 and 2.0")
    except (ValueError, MemoryError, RecursionError) as error:
        raise _RefusedError(f"it does not begin as a .npy file ({str(error)[:200]})") from None
    if fortran and len(shape) > 1:
        raise _RefusedError("its rows are stored column by column")
    return shape, dtype


def _read_plain(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[Ids, Ids]:
    """Rows of equal length, as a matrix."""
    if dtype.kind not in "iu" or len(shape) != 2:
        raise _RefusedError(f"it has {dtype} and shape {shape}, expected rows of integers")
    try:
        matrix = np.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError as error:
        raise _RefusedError(f"it is cut off ({error})") from None
    return np.arange(shape[0] + 1) * shape[1], _to_int64([matrix.reshape(-1)])


def _read_pickled(file: BinaryIO, shape: tuple[int, ...]) -> tuple[Ids, Ids]:
    """Rows of an object array: one array each, or a matrix of numbers."""
    begin = file.tell()
    data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))  # freed with the last row
    outer = _Instructions(data, begin).run()
    if not isinstance(outer, _Array) or outer.rows is None:
        raise _RefusedError("its outermost value is no array of arrays")
    if outer.shape != shape:
        raise _RefusedError(f"its header says shape {shape}, its content {outer.shape}")
    return _join_rows(outer.rows, shape, size=len(data))


def _join_rows(rows: list[Any], shape: tuple[int, ...], *, size: int) -> tuple[Ids, Ids]:
    if len(shape) == 2 and all(type(row) is int for row in rows):
        if rows and not -(2**63) <= min(rows) <= max(rows) < 2**63:
            raise _RefusedError("it holds numbers beyond 64 bits")
        return np.arange(shape[0] + 1) * shape[1], np.array(rows, dtype=np.int64)
    if len(shape) != 1:
        raise _RefusedError(f"it has shape {shape}, expected one array a row")
    arrays = []
    for number, row in enumerate(rows):
        if not isinstance(row, _Array) or row.values is None:
            raise _RefusedError(f"row {number} is no array of integers")
        arrays.append(row.values)
    lengths = [len(values) for values in arrays]
    if sum(values.nbytes for values in arrays) > size:
        raise _RefusedError("it repeats arrays: its rows hold more than the whole file does")
    return np.cumsum([0, *lengths], dtype=np.int64), _to_int64(arrays)


def _to_int64(arrays: list[npt.NDArray[Any]]) -> Ids:
    """All values one after the other, as a copy."""
    if any(values.dtype.kind == "u" and values.dtype.itemsize == 8 for values in arrays):
        largest = max((int(values.max()) for values in arrays if len(values)), default=0)
        if largest >= 2**63:
            raise _RefusedError(f"it holds the number {largest}, too large for an id")
    if not arrays:
        return np.empty(0, dtype=np.int64)
    return np.concatenate(arrays, dtype=np.int64, casting="unsafe")


class _Instructions:
    """The instructions of one pickle, carried out on inert values.

    Bytes of the file are slices, arrays and element types `_Array` and `_DType`, names `_Name`.
    """

    def __init__(self, data: memoryview, position: int) -> None:
        self.data = data
        self.position = position
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        """The value that the instructions leave behind."""
        data, steps = self.data, STEPS
        try:
            while True:
                code = data[self.position]
                self.position += 1
                if code == STOP:
                    return self._single()
                step = steps[code]
                if step is None:
                    raise _RefusedError(f"the instruction {_describe(code)} at byte {self.position - 1}")
                step(self)
        except (IndexError, struct.error):
            raise _RefusedError(f"it is cut off or damaged at byte {self.position}") from None

    def _single(self) -> Any:
        if len(self.stack) != 1 or self.marks:
            raise _RefusedError("its instructions leave other than one value")
        if self.position != len(self.data):
            raise _RefusedError(f"something follows its end at byte {self.position}")
        return self.stack.pop()

    def _number(self, form: struct.Struct) -> int:
        value: int = form.unpack_from(self.data, self.position)[0]
        self.position += form.size
        return value

    def _advance(self, length: int) -> slice:
        begin = self.position
        self.position += length
        if length < 0 or self.position > len(self.data):
            raise IndexError
        return slice(begin, self.position)

    def _text(self, length: int) -> str:
        try:
            return str(self.data[self._advance(length)], "utf-8")
        except UnicodeDecodeError:
            raise _RefusedError(f"a text that is not UTF-8 before byte {self.position}") from None

    def _line(self) -> str:
        """Text up to the end of the line, which is short in the names that are known."""
        found = bytes(self.data[self.position : self.position + 100]).find(b"\n")
        if found < 0:
            raise _RefusedError(f"a name without an end at byte {self.position}")
        text = self._text(found)
        self.position += 1
        return text

    def _push_name(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise _RefusedError(f"a name that is no text, at byte {self.position}")
        if (module, name) not in NAMES:
            raise _RefusedError(
                f"it names {f'{module}.{name}'[:80]!r}, which is neither imported nor called here"
            )
        self.stack.append(NAMES[module, name])

    def _since_mark(self) -> list[Any]:
        begin = self.marks.pop()
        values = self.stack[begin:]
        if len(self.stack) < begin:
            raise IndexError
        del self.stack[begin:]
        return values

    def global_name(self) -> None:
        self._push_name(self._line(), self._line())

    def stack_global(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self._push_name(module, name)

    def binput(self) -> None:
        self.memo[self.data[self.position]] = self.stack[-1]
        self.position += 1

    def long_binput(self) -> None:
        self.memo[self._number(UINT4)] = self.stack[-1]

    def memoize(self) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def binget(self) -> None:
        self._recall(self.data[self.position])
        self.position += 1

    def long_binget(self) -> None:
        self._recall(self._number(UINT4))

    def _recall(self, index: int) -> None:
        if index not in self.memo:
            raise _RefusedError(f"a value that was never stored, at byte {self.position}")
        self.stack.append(self.memo[index])

    def small_int(self) -> None:
        self.stack.append(self.data[self.position])
        self.position += 1

    def long_int(self) -> None:
        length = self.data[self.position]
        self.position += 1
        self.stack.append(int.from_bytes(self.data[self._advance(length)], "little", signed=True))

    def short_bytes(self) -> None:
        length = self.data[self.position]
        self.position += 1
        self.stack.append(self._advance(length))

    def short_text(self) -> None:
        length = self.data[self.position]
        self.position += 1
        self.stack.append(self._text(length))

    def mark(self) -> None:
        self.marks.append(len(self.stack))

    def tuple_of_marked(self) -> None:
        self.stack.append(tuple(self._since_mark()))

    def append(self) -> None:
        value = self.stack.pop()
        self._list().append(value)

    def appends(self) -> None:
        values = self._since_mark()
        self._list().extend(values)

    def _list(self) -> list[Any]:
        target = self.stack[-1]
        if not isinstance(target, list):
            raise _RefusedError(f"an append to no list, at byte {self.position}")
        return target

    def reduce(self) -> None:
        arguments, name = self.stack.pop(), self.stack.pop()
        if name is _Name.reconstruct and type(arguments) is tuple and arguments[:1] == (_Name.ndarray,):
            self.stack.append(_Array())
        elif name is _Name.dtype and type(arguments) is tuple and _is_dtype_call(arguments):
            self.stack.append(_DType(arguments[0]))
        else:
            raise _RefusedError(f"a call that makes no array, at byte {self.position}")

    def build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, _Array) and target.shape is None:
            self._fill_array(target, state)
        elif isinstance(target, _DType) and target.dtype is None:
            target.dtype = _integer_type(target.name, state)
        else:
            raise _RefusedError(f"a value given to no array, at byte {self.position}")

    def _fill_array(self, array: _Array, state: Any) -> None:
        if type(state) is not tuple or len(state) != 5 or not _is_shape(state[1]):
            raise _RefusedError(f"an array that is not as numpy writes it, at byte {self.position}")
        _, shape, element, fortran, content = state
        if not isinstance(element, _DType) or element.dtype is None:
            raise _RefusedError(f"an array without an element type, at byte {self.position}")
        array.shape = shape
        size = 1
        for length in shape:
            size *= length
        if element.dtype == object:
            if fortran is not False or type(content) is not list or len(content) != size:
                raise _RefusedError(f"an array of {size} values that holds others, at byte {self.position}")
            array.rows = list(content)  # the file cannot add to it any more
        elif len(shape) != 1:
            raise _RefusedError(f"a row of shape {shape}, expected a plain list of integers")
        elif type(content) is not slice or content.stop - content.start != size * element.dtype.itemsize:
            raise _RefusedError(f"an array of {size} integers that holds others, at byte {self.position}")
        else:
            array.values = np.frombuffer(self.data, element.dtype, size, content.start)


def _is_dtype_call(arguments: tuple[Any, ...]) -> bool:
    return arguments[1:] == (False, True) and isinstance(arguments[0], str)


def _is_shape(value: Any) -> bool:
    return type(value) is tuple and 0 < len(value) <= 2 and all(type(n) is int and n >= 0 for n in value)


def _integer_type(name: str, state: Any) -> np.dtype[Any]:
    """The element type, for integers of any size and byte order and for the outer array's objects."""
    plain = (None, None, None, -1, -1)
    if type(state) is not tuple or state[:1] != (3,) or state[2:7] != plain or len(state) != 8:
        raise _RefusedError(f"the element type {name!r} is not as numpy writes it")
    if name in ("O8", "O4") and state[1] == "|":
        return np.dtype(object)
    if INTEGER.fullmatch(name) and state[1] in ("<", ">", "|"):
        return np.dtype(f"{state[1]}{name}")
    raise _RefusedError(f"its elements are {name!r}, expected integers")


def _describe(code: int) -> str:
    name = OPCODES.get(code)
    return f"{name}, which no array of integers needs" if name else f"{code:#04x}, which does not exist"


UINT2, UINT4, UINT8, INT4 = (struct.Struct(form) for form in ("<H", "<I", "<Q", "<i"))
STOP = ord(".")
Step = Callable[[_Instructions], None]


def _push(make: Callable[[_Instructions], Any]) -> Step:
    def step(reader: _Instructions) -> None:
        reader.stack.append(make(reader))

    return step


def _tuple_of(count: int) -> Step:
    def step(reader: _Instructions) -> None:
        if len(reader.stack) < count:
            raise IndexError
        reader.stack[-count:] = [tuple(reader.stack[-count:])]

    return step


def _skip(length: int) -> Step:
    def step(reader: _Instructions) -> None:
        reader._advance(length)

    return step


KNOWN: dict[str, Step] = {
    "PROTO": _skip(1),
    "FRAME": _skip(8),
    "GLOBAL": _Instructions.global_name,
    "STACK_GLOBAL": _Instructions.stack_global,
    "BINPUT": _Instructions.binput,
    "LONG_BINPUT": _Instructions.long_binput,
    "MEMOIZE": _Instructions.memoize,
    "BINGET": _Instructions.binget,
    "LONG_BINGET": _Instructions.long_binget,
    "BININT": _push(lambda reader: reader._number(INT4)),
    "BININT1": _Instructions.small_int,
    "BININT2": _push(lambda reader: reader._number(UINT2)),
    "LONG1": _Instructions.long_int,
    "SHORT_BINBYTES": _Instructions.short_bytes,
    "BINBYTES": _push(lambda reader: reader._advance(reader._number(UINT4))),
    "BINBYTES8": _push(lambda reader: reader._advance(reader._number(UINT8))),
    "SHORT_BINUNICODE": _Instructions.short_text,
    "BINUNICODE": _push(lambda reader: reader._text(reader._number(UINT4))),
    "NONE": _push(lambda _: None),
    "NEWTRUE": _push(lambda _: True),
    "NEWFALSE": _push(lambda _: False),
    "MARK": _Instructions.mark,
    "TUPLE": _Instructions.tuple_of_marked,
    "TUPLE1": _tuple_of(1),
    "TUPLE2": _tuple_of(2),
    "TUPLE3": _tuple_of(3),
    "EMPTY_TUPLE": _push(lambda _: ()),
    "EMPTY_LIST": _push(lambda _: []),
    "APPEND": _Instructions.append,
    "APPENDS": _Instructions.appends,
    "REDUCE": _Instructions.reduce,
    "BUILD": _Instructions.build,
}
OPCODES = {ord(opcode.code): opcode.name for opcode in opcodes}
STEPS: list[Step | None] = [KNOWN.get(OPCODES.get(code, "")) for code in range(256)]

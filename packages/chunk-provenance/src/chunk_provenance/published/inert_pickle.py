"""The instructions of a pickled array of integer arrays, carried out on values that can do nothing.

Those that such a file needs put together tuples, lists and slices of the mapped file; the names in it are
compared with the three that stand for numpy's array and element type, and mean nothing else. No instruction
imports, calls or allocates by a size that the file states; any other instruction is refused.
"""

import re
import struct
from collections.abc import Callable
from enum import Enum
from pickletools import opcodes
from typing import Any

import numpy as np
import numpy.typing as npt

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


class InertArray:
    """An array of the file: `rows` of the outer one, or `values` of a row."""

    __slots__ = ("rows", "shape", "values")

    def __init__(self) -> None:
        """An array whose content comes later."""
        self.shape: tuple[int, ...] | None = None
        self.values: npt.NDArray[Any] | None = None
        self.rows: list[Any] | None = None


class _DType:
    """An element type of the file: "i8" and the like, or "O8"."""

    __slots__ = ("dtype", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.dtype: np.dtype[Any] | None = None


class RefusedError(ValueError):
    """Something in the file that such a file does not need; the message says what."""


def run_instructions(data: memoryview, position: int) -> Any:
    """The value that the instructions from a position to the end of the data leave behind.

    Bytes of the file are slices; arrays are `InertArray`.

    Raises:
        RefusedError: an instruction or a value that no array of integer arrays needs; nothing was executed.
    """
    return _Instructions(data, position).run()


class _Instructions:
    """The instructions of one pickle, carried out on inert values.

    Bytes of the file are slices, arrays and element types `InertArray` and `_DType`, names `_Name`.
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
                    raise RefusedError(f"the instruction {_describe(code)} at byte {self.position - 1}")
                step(self)
        except (IndexError, struct.error):
            raise RefusedError(f"it is cut off or damaged at byte {self.position}") from None

    def _single(self) -> Any:
        if len(self.stack) != 1 or self.marks:
            raise RefusedError("its instructions leave other than one value")
        if self.position != len(self.data):
            raise RefusedError(f"something follows its end at byte {self.position}")
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
            raise RefusedError(f"a text that is not UTF-8 before byte {self.position}") from None

    def _line(self) -> str:
        """Text up to the end of the line, which is short in the names that are known."""
        found = bytes(self.data[self.position : self.position + 100]).find(b"\n")
        if found < 0:
            raise RefusedError(f"a name without an end at byte {self.position}")
        text = self._text(found)
        self.position += 1
        return text

    def _push_name(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise RefusedError(f"a name that is no text, at byte {self.position}")
        if (module, name) not in NAMES:
            raise RefusedError(
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
            raise RefusedError(f"a value that was never stored, at byte {self.position}")
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
            raise RefusedError(f"an append to no list, at byte {self.position}")
        return target

    def reduce(self) -> None:
        arguments, name = self.stack.pop(), self.stack.pop()
        if name is _Name.reconstruct and type(arguments) is tuple and arguments[:1] == (_Name.ndarray,):
            self.stack.append(InertArray())
        elif name is _Name.dtype and type(arguments) is tuple and _is_dtype_call(arguments):
            self.stack.append(_DType(arguments[0]))
        else:
            raise RefusedError(f"a call that makes no array, at byte {self.position}")

    def build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, InertArray) and target.shape is None:
            self._fill_array(target, state)
        elif isinstance(target, _DType) and target.dtype is None:
            target.dtype = _integer_type(target.name, state)
        else:
            raise RefusedError(f"a value given to no array, at byte {self.position}")

    def _fill_array(self, array: InertArray, state: Any) -> None:
        if type(state) is not tuple or len(state) != 5 or not _is_shape(state[1]):
            raise RefusedError(f"an array that is not as numpy writes it, at byte {self.position}")
        _, shape, element, fortran, content = state
        if not isinstance(element, _DType) or element.dtype is None:
            raise RefusedError(f"an array without an element type, at byte {self.position}")
        array.shape = shape
        size = 1
        for length in shape:
            size *= length
        if element.dtype == object:
            if fortran is not False or type(content) is not list or len(content) != size:
                raise RefusedError(f"an array of {size} values that holds others, at byte {self.position}")
            array.rows = list(content)  # the file cannot add to it any more
        elif len(shape) != 1:
            raise RefusedError(f"a row of shape {shape}, expected a plain list of integers")
        elif type(content) is not slice or content.stop - content.start != size * element.dtype.itemsize:
            raise RefusedError(f"an array of {size} integers that holds others, at byte {self.position}")
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
        raise RefusedError(f"the element type {name[:20]!r} is not as numpy writes it")
    if name in ("O8", "O4") and state[1] == "|":
        return np.dtype(object)
    if INTEGER.fullmatch(name) and state[1] in ("<", ">", "|"):
        return np.dtype(f"{state[1]}{name}")
    raise RefusedError(f"its elements are {name[:20]!r}, expected integers")


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

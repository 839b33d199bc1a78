"""CPU nanoseconds per output element of every merge method, on one BF16 tensor in memory.

    uv run python packages/model-merge/benchmarks/methods.py [--elements 67108864]

Counts what a merge does but for reading and writing: decoding, every statistics pass, the arithmetic, the
rounding.
"""

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from model_merge.dtypes import Compute, Values, decode_into, encode
from model_merge.methods import METHODS
from model_merge.methods.spec import settle
from model_merge.plan import BLOCK

WEIGHTED = [{"weight": weight, "density": 0.5, "gamma": 0.01} for weight in (0.4, 0.3, 0.2, 0.1)]
CASES: list[tuple[str, int, bool, dict[str, Any]]] = [
    ("linear", 4, False, {}),
    ("slerp", 1, True, {"t": 0.4}),
    ("nuslerp", 2, False, {}),
    ("nuslerp", 2, False, {"nuslerp_flatten": False}),
    ("multislerp", 4, False, {}),
    ("karcher", 4, False, {}),
    ("task_arithmetic", 4, True, {}),
    ("ties", 4, True, {}),
    ("dare_linear", 4, True, {}),
    ("dare_ties", 4, True, {}),
    ("breadcrumbs", 4, True, {}),
    ("breadcrumbs_ties", 4, True, {}),
    ("sce", 4, True, {"select_topk": 0.5}),
    ("model_stock", 4, True, {}),
]


@dataclass
class Encoded:
    """`Inputs` of BF16 bytes in memory."""

    shape: tuple[int, ...]
    raw: list[np.ndarray]
    compute: Compute

    def read(self, start: int, stop: int) -> list[Values]:
        """The values of all inputs there."""
        type_ = np.float32 if self.compute == "F32" else np.float64
        values = [np.empty(stop - start, type_) for _ in self.raw]
        for bytes_, into in zip(self.raw, values, strict=True):
            decode_into(bytes_[2 * start : 2 * stop], "BF16", into)
        return values

    def blocks(self) -> Iterator[tuple[int, list[Values]]]:
        """A statistics pass."""
        size = len(self.raw[0]) // 2
        for start in range(0, size, BLOCK):
            yield start, self.read(start, min(start + BLOCK, size))


def main() -> None:
    """Measure every case once."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--elements", type=int, default=1 << 26)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    shape = (options.elements // 4096, 4096)
    rng = np.random.default_rng(0)
    base = 0.02 * rng.standard_normal(shape[0] * shape[1], dtype=np.float32)
    raw = [encode(base.copy(), "BF16")]
    for _ in range(4):
        raw.append(encode(base + 0.002 * rng.standard_normal(len(base), dtype=np.float32), "BF16"))
    for name, count, has_base, shared in CASES:
        if options.only in name:
            seconds = measure(name, raw[: count + has_base], shape, has_base=has_base, shared=shared)
            nanoseconds = seconds / len(base) * 1e9
            each = nanoseconds / count
            label = " ".join([name, *(f"{key}={value}" for key, value in shared.items())])
            print(f"{label:36} {count} models  {nanoseconds:6.1f} ns  {each:5.1f} ns a model", flush=True)


def measure(
    name: str, raw: list[np.ndarray], shape: tuple[int, ...], *, has_base: bool, shared: dict[str, Any]
) -> float:
    """CPU seconds of one merge."""
    method = METHODS[name]
    known = {parameter.name for parameter in method.parameters if parameter.of == "model"}
    models = [
        {key: value for key, value in WEIGHTED[i].items() if key in known} for i in range(len(raw) - has_base)
    ]
    call = settle(method, tensor="w", shape=shape, has_base=has_base, models=models, shared=shared)
    inputs = Encoded(shape, raw, "F64" if method.wide else "F32")
    size = call.size
    started = time.process_time()
    kernel = method.build(call)(inputs)
    for start in range(0, size, BLOCK):
        encode(kernel(start, inputs.read(start, min(start + BLOCK, size))), "BF16")
    return time.process_time() - started


if __name__ == "__main__":
    main()

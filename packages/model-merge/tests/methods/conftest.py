"""The slow, obvious ways: an executor on whole arrays in memory, every method as its formula."""

import json
import math
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from model_merge.methods import METHODS
from model_merge.methods.spec import settle
from model_merge.plan import BLOCK, MergePlan, TensorPlan, TensorRef

GOLDEN = Path(__file__).parents[1] / "golden"
DTYPES = {
    "F32": np.float32,
    "BF16": ml_dtypes.bfloat16,
    "F64": np.float64,
    "F16": np.float16,
    "I64": np.int64,
}


@pytest.fixture
def golden() -> Path:
    return GOLDEN


@dataclass
class ArrayInputs:
    """`Inputs` of arrays in memory."""

    shape: tuple[int, ...]
    flat: list[np.ndarray]

    def blocks(self) -> Iterator[tuple[int, list[np.ndarray]]]:
        for start in range(0, len(self.flat[0]), BLOCK):
            yield start, [values[start : start + BLOCK] for values in self.flat]


def execute(prepare: Callable, arrays: list[np.ndarray], chunk: int | None = None) -> np.ndarray:
    inputs = ArrayInputs(arrays[0].shape, [array.reshape(-1) for array in arrays])
    kernel = prepare(inputs)
    size = arrays[0].size
    pieces = [
        kernel(start, [values[start : start + (chunk or size)].copy() for values in inputs.flat])
        for start in range(0, size, chunk or size or 1)
    ]
    return np.concatenate([np.zeros(0, arrays[0].dtype), *pieces]).reshape(arrays[0].shape)


def execute_plan(plan: MergePlan, chunk: int | None = None) -> dict[str, np.ndarray]:
    """Every tensor of a plan, each read whole; rounded by NumPy and ml_dtypes."""
    merged = {}
    for tensor in plan.tensors:
        if tensor.prepare is None:
            reference = tensor.inputs[0]
            raw = plan.checkpoints[reference.checkpoint].read_bytes(reference.name)
            merged[tensor.name] = raw.view(DTYPES[tensor.dtype]).reshape(tensor.shape)
            continue
        arrays = [_input(plan, tensor, reference) for reference in tensor.inputs]
        values = execute(tensor.prepare, arrays, chunk)
        assert np.isfinite(values).all()
        merged[tensor.name] = values.astype(DTYPES[tensor.dtype])
    return merged


def _input(plan: MergePlan, tensor: TensorPlan, reference: TensorRef) -> np.ndarray:
    checkpoint = plan.checkpoints[reference.checkpoint]
    values = checkpoint.read(reference.name, compute=tensor.compute)
    values = values.reshape(checkpoint.tensors[reference.name].shape)
    if reference.rows is None:
        return values
    taken = values[reference.rows]
    taken[reference.rows < 0] = np.nan
    return taken


@pytest.fixture(name="execute_plan")
def execute_plan_fixture() -> Callable:
    return execute_plan


@pytest.fixture(name="execute")
def execute_fixture() -> Callable:
    return execute


@pytest.fixture
def merge() -> Callable:
    """merge(name, arrays, base=..., models=..., chunk=..., **shared): one tensor by a method of ours."""

    def merge(
        name: str,
        arrays: list[np.ndarray],
        *,
        base: np.ndarray | None = None,
        models: list[dict[str, Any]] | None = None,
        tensor: str = "w",
        seed: int = 0,
        chunk: int | None = None,
        **shared: Any,
    ) -> np.ndarray:
        call = settle(
            METHODS[name],
            tensor=tensor,
            shape=(arrays[0] if base is None else base).shape,
            has_base=base is not None,
            models=models or [{} for _ in arrays],
            shared=shared,
            seed=seed,
        )
        inputs = arrays if base is None else [base, *arrays]
        return execute(METHODS[name].build(call), inputs, chunk)

    return merge


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """All tensors of a file, or of all files of a checkpoint's folder."""
    if path.is_dir():
        tensors: dict[str, np.ndarray] = {}
        for file in sorted(path.glob("*.safetensors")):
            tensors |= read_tensors(file)
        return tensors
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + length])
    header.pop("__metadata__", None)
    data = raw[8 + length :]
    return {
        name: np.frombuffer(data[slice(*entry["data_offsets"])], DTYPES[entry["dtype"]]).reshape(
            entry["shape"]
        )
        for name, entry in header.items()
    }


@pytest.fixture(name="read_tensors")
def read_tensors_fixture() -> Callable:
    return read_tensors


# Every method as the formula says it, on whole float64 arrays: deltas d, weights w, base b.


def _top(magnitudes: np.ndarray, k: int) -> np.ndarray:
    """The k largest; the earlier of equals."""
    order = np.argsort(-magnitudes.reshape(-1).astype(np.float32), kind="stable")
    mask = np.zeros(magnitudes.size, bool)
    mask[order[:k]] = True
    return mask.reshape(magnitudes.shape)


def _thinned(name: str, delta: np.ndarray, model: dict) -> np.ndarray:
    density, size = model.get("density", 1.0), delta.size
    if density >= 1:
        return delta
    if name.startswith("ties"):
        return delta * _top(np.abs(delta), max(1, int(density * size)) if density > 0 else 0)
    ascending = np.argsort(np.abs(delta).reshape(-1).astype(np.float32)[::-1], kind="stable")
    ascending = size - 1 - ascending  # by magnitude, of equals the later first
    kept = int(density * size)
    below = max(0, size - kept - int(model.get("gamma", 0.01) * size))
    mask = np.zeros(size, bool)
    mask[ascending[below : below + kept]] = True
    return delta * mask.reshape(delta.shape)


def twin_deltas(name: str, b: np.ndarray, xs: list, models: list, **shared: Any) -> np.ndarray:
    """task_arithmetic, ties, breadcrumbs, breadcrumbs_ties."""
    if not xs:
        return b
    deltas = []
    for x, model in zip(xs, models, strict=True):
        delta = x - b
        kept = delta if name == "task_arithmetic" else _thinned(name, delta, model)
        if shared.get("rescale") and np.abs(kept).sum() > 1e-7:
            kept = kept * np.abs(delta).sum() / np.abs(kept).sum()
        deltas.append(kept)
    w = np.array([model["weight"] for model in models]).reshape(-1, *[1] * b.ndim)
    terms = w * np.stack(deltas)
    mask = np.ones_like(terms, bool)
    if "ties" in name:
        sign = np.where(terms.sum(0) >= 0, 1, -1)
        mask = np.sign(terms) == sign
    total, divisor = (terms * mask).sum(0), (w * mask).sum(0)
    if shared.get("normalize", name == "ties"):
        total = total / np.where(divisor == 0, 1, divisor)
    return b + shared.get("lambda", 1.0) * total


def twin_sce(b: np.ndarray, xs: list, select_topk: float = 1.0) -> np.ndarray:
    deltas = np.stack([x - b for x in xs])
    if select_topk < 1:
        variance = np.stack([x - xs[0] for x in xs]).var(axis=0)
        variance = variance.astype(np.float32)
        deltas = deltas * _top(variance, int(np.count_nonzero(variance) * select_topk))
    energy = (deltas**2).reshape(len(xs), -1).mean(1) if b.size else np.zeros(len(xs))
    w = energy / energy.sum() if energy.sum() >= 1e-6 else np.full(len(xs), 1 / len(xs))
    w = w.reshape(-1, *[1] * b.ndim)
    mask = np.sign(deltas) == np.where(deltas.sum(0) >= 0, 1, -1)
    return b + (deltas * w * mask).sum(0) / np.maximum((w * mask).sum(0), 1e-6)


def twin_slerp(a: np.ndarray, c: np.ndarray, t: float) -> np.ndarray:
    na, nc = (norm if norm > 1e-8 else 1.0 for norm in (math.sqrt((v**2).sum()) for v in (a, c)))
    cosine = float(np.clip((a / na * c / nc).sum(), -1, 1))
    if abs(cosine) > 0.9995:
        return (1 - t) * a + t * c
    angle = math.acos(cosine)
    return (math.sin((1 - t) * angle) * a + math.sin(t * angle) * c) / math.sin(angle)


def _twin_arc(a: np.ndarray, c: np.ndarray, t: float) -> np.ndarray:
    unit = [v / max(math.sqrt((v**2).sum()), 1e-7) for v in (a, c)]
    cosine = float(np.clip((unit[0] * unit[1]).sum(), -1, 1))
    if abs(np.float32(cosine)) == 1:
        return (1 - t) * a + t * c
    angle = math.acos(cosine)
    return (math.sin((1 - t) * angle) * a + math.sin(t * angle) * c) / math.sin(angle)


def twin_nuslerp(
    xs: list, weights: list, b: np.ndarray | None = None, flatten: bool = True, row_wise: bool = False
) -> np.ndarray:
    total = sum(weights)
    t = 0.5 if abs(total) < 1e-6 else weights[1] / total
    origin = np.zeros_like(xs[0]) if b is None else b
    a, c = xs[0] - origin, xs[1] - origin
    if flatten or a.ndim < 2:
        return origin + _twin_arc(a, c, t)
    axis = 0 if row_wise else -1
    a, c = np.moveaxis(a, axis, -1), np.moveaxis(c, axis, -1)
    merged = np.zeros_like(a)
    for place in np.ndindex(a.shape[:-1]):
        merged[place] = _twin_arc(a[place], c[place], t)
    return origin + np.moveaxis(merged, -1, axis)


def twin_multislerp(xs: list, weights: list, b: np.ndarray | None = None, eps: float = 1e-8) -> np.ndarray:
    origin = np.zeros_like(xs[0]) if b is None else b
    if len(xs) == 1:
        return xs[0]
    vectors = [x - origin for x in xs]
    w = np.array(weights) / np.sum(weights)
    norms = [math.sqrt((v**2).sum()) for v in vectors]
    units = [v / (norm + eps) for v, norm in zip(vectors, norms, strict=True)]
    mean = sum(wi * u for wi, u in zip(w, units, strict=True))
    length = math.sqrt((mean**2).sum())
    if length < eps:
        return origin + w[0] * vectors[0] + w[1] * vectors[1]
    mean = mean / length
    tangent = sum(wi * (u - (u * mean).sum() * mean) for wi, u in zip(w, units, strict=True))
    r = math.sqrt((tangent**2).sum()) + eps
    along = mean * math.cos(r) + tangent * math.sin(r) / r
    return origin + along * float(w @ np.array(norms))


def twin_karcher(xs: list, max_iter: int = 10, tol: float = 1e-5) -> np.ndarray:
    if len(xs) == 1:
        return xs[0]
    norms = [math.sqrt((x**2).sum()) for x in xs]
    units = [x / norm for x, norm in zip(xs, norms, strict=True) if norm > tol]
    if not units:
        return np.zeros_like(xs[0])
    mean = sum(units) / len(units)
    length = math.sqrt((mean**2).sum())
    mean = units[0] if length < tol else mean / length
    for _ in range(max_iter):
        tangent = np.zeros_like(mean)
        for u in units:
            cosine = float(np.clip((mean * u).sum(), -1, 1))
            angle = math.acos(cosine)
            if tol <= angle <= math.pi - 1e-6:
                tangent += angle / math.sin(angle) * (u - cosine * mean) / len(units)
        r = math.sqrt((tangent**2).sum())
        if r < tol:
            break
        mean = math.cos(r) * mean + math.sin(r) * tangent / r
        mean = mean / math.sqrt((mean**2).sum())
    return mean * np.mean(norms)


def twin_model_stock(b: np.ndarray, xs: list, filter_wise: bool = False) -> np.ndarray:
    if filter_wise and b.ndim > 1:
        merged = np.zeros_like(b)
        for place in np.ndindex(b.shape[:-1]):
            merged[place] = twin_model_stock(b[place], [x[place] for x in xs])
        return merged
    n, deltas = len(xs), [x - b for x in xs]
    norms = [math.sqrt((d**2).sum()) for d in deltas]
    cosines = [
        float(np.clip((deltas[i] * deltas[j]).sum() / max(norms[i] * norms[j], 1e-6), -1, 1))
        for i in range(n)
        for j in range(i + 1, n)
    ]
    c = float(np.mean(cosines))
    t = 0.0 if abs(1 + (n - 1) * c) < 1e-6 else n * c / (1 + (n - 1) * c)
    return t * sum(xs) / n + (1 - t) * b


@pytest.fixture
def twin() -> Callable:
    """twin(name, arrays, base=..., models=..., **shared): the same tensor by the formula, in float64."""

    def twin(
        name: str, arrays: list, *, base: Any = None, models: list | None = None, **shared: Any
    ) -> np.ndarray:
        xs = [np.asarray(array, np.float64) for array in arrays]
        b = None if base is None else np.asarray(base, np.float64)
        models = models or [{} for _ in xs]
        weights = [model.get("weight") for model in models]
        if name == "linear":
            total = sum(w * x for w, x in zip(weights, xs, strict=True))
            return total / sum(weights) if shared.get("normalize", True) else total
        if name == "slerp":
            return twin_slerp(b, xs[0], shared["t"])
        if name == "nuslerp":
            options = {key.removeprefix("nuslerp_"): value for key, value in shared.items()}
            return twin_nuslerp(xs, weights, b, **options)
        if name == "multislerp":
            return twin_multislerp(xs, weights, b)
        if name == "karcher":
            return twin_karcher(xs, **shared)
        if name == "model_stock":
            return twin_model_stock(b, xs, **shared)
        if name == "sce":
            return twin_sce(b, xs, **shared)
        return twin_deltas(name, b, xs, models, **shared)

    return twin

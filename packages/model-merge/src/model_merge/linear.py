"""From an expression to a plan, for merges that are weighted sums."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from model_merge.averaging import Compat, Prepare, compute_dtype, ez_average, weighted_sum
from model_merge.checkpoint import Checkpoint, open_checkpoint
from model_merge.checks import check, untied_name
from model_merge.dtypes import FLOATS, Compute
from model_merge.expression import Expression, Leaf, Linear, flatten, to_json, whole_weights
from model_merge.header import TensorInfo
from model_merge.plan import MergePlan, TensorPlan, TensorRef


@dataclass(frozen=True)
class Merge:
    """Checkpoints that can be merged, and what the merge takes from them besides numbers."""

    checkpoints: tuple[Checkpoint, ...]
    names: tuple[str, ...]
    """Of the output's tensors."""
    donor: int
    config_changes: dict[str, Any]

    def inputs(self, name: str) -> tuple[tuple[TensorRef, ...], list[TensorInfo]]:
        """What an output tensor is made of."""
        refs = tuple(TensorRef(i, untied_name(one, name)) for i, one in enumerate(self.checkpoints))
        return refs, [one.tensors[ref.name] for one, ref in zip(self.checkpoints, refs, strict=True)]


def open_all(references: Sequence[str], *, dtype: str | None, untie: bool, donor: str | None) -> Merge:
    """Open checkpoints and check that they can be merged."""
    checkpoints = tuple(open_checkpoint(reference) for reference in references)
    check(checkpoints, dtype=dtype, untie=untie)
    if donor is not None and donor not in references:
        raise ValueError(f"the donor {donor!r} is none of the models: {', '.join(map(repr, references))}")
    differ = any(checkpoints[0].tensors.keys() != other.tensors.keys() for other in checkpoints[1:])
    return Merge(
        checkpoints,
        names=tuple(dict.fromkeys(name for checkpoint in checkpoints for name in checkpoint.tensors)),
        donor=0 if donor is None else list(references).index(donor),
        config_changes={"tie_word_embeddings": False} if untie and differ else {},
    )


def plan_linear(
    expression: Expression,
    *,
    dtype: str | None = None,
    compat: Compat | None = None,
    untie: bool = False,
    donor: str | None = None,
) -> MergePlan:
    """The plan of a weighted sum, after every check of its inputs.

    Raises:
        IncompatibleError: listing every reason why these checkpoints cannot be averaged.
        ValueError: the expression is not linear, its weights sum to zero, or `compat` cannot express it.
    """
    flat = {reference: weight for reference, weight in flatten(expression).items() if weight}
    if not flat:
        raise ValueError("every weight is zero: there is nothing to merge")
    merge = open_all(list(flat), dtype=dtype, untie=untie, donor=donor)
    weights = _given(expression) if compat == "mergekit" else list(flat.values())
    described = {
        "expression": to_json(expression),
        "weights": _weights_json(flat),
        "dtype": dtype,
        "compat": compat,
        "untie": untie,
    }
    tensors = tuple(_tensor(merge, name, weights, dtype, compat) for name in merge.names)
    return MergePlan(merge.checkpoints, tensors, described, merge.donor, merge.config_changes)


def _given(expression: Expression) -> list[Fraction]:
    """The weights as mergekit would be told them: one list, of different models."""
    if isinstance(expression, Linear) and all(isinstance(operand, Leaf) for _, operand in expression.terms):
        weights = {operand: weight for weight, operand in expression.terms}
        if len(weights) == len(expression.terms) and all(weights.values()) and expression.normalise:
            return list(weights.values())
    raise ValueError("compat mergekit takes one list of different models with weights other than zero")


def _weights_json(flat: dict[str, Fraction]) -> dict[str, Any]:
    weights, divisor = whole_weights(list(flat.values()))
    return {
        "divisor": divisor,
        "models": [{"model": model, "weight": weight} for model, weight in zip(flat, weights, strict=True)],
    }


def _tensor(
    merge: Merge, name: str, weights: Sequence[Fraction], dtype: str | None, compat: Compat | None
) -> TensorPlan:
    refs, infos = merge.inputs(name)
    if infos[0].dtype not in FLOATS:
        return TensorPlan(name, infos[0].shape, infos[0].dtype, refs[:1], None)
    output = dtype or infos[0].dtype
    prepare, compute = _arithmetic([info.dtype for info in infos], output, weights, compat)
    return TensorPlan(name, infos[0].shape, output, refs, prepare, compute)


def _arithmetic(
    dtypes: Sequence[str], output: str, weights: Sequence[Fraction], compat: Compat | None
) -> tuple[Prepare, Compute]:
    if compat is None:
        return weighted_sum(*whole_weights(weights)), compute_dtype(dtypes, output)
    if "F64" in (*dtypes, output):
        raise ValueError(f"compat {compat} is for checkpoints of at most 32 bits, found F64")
    if compat == "mergekit":
        from model_merge.methods.emulate import fused_sum, rounding  # here: others need no method

        return fused_sum([float(weight) for weight in weights], float(sum(weights)), rounding("F32")), "F32"
    if len({*weights}) > 1:
        raise ValueError("compat ez averages uniformly: it has no weights")
    if {*dtypes} - {"F32", "BF16"}:
        raise ValueError(f"compat ez is known for F32 and BF16, found {', '.join(sorted({*dtypes}))}")
    return ez_average(len(weights), in_bf16="BF16" in dtypes), "F32"

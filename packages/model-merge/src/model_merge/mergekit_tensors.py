"""The plan of one tensor of a mergekit file: its inputs, its parameters, its arithmetic."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from model_merge.averaging import compute_dtype
from model_merge.dtypes import FLOATS, Compute
from model_merge.header import TensorInfo
from model_merge.mergekit_context import Context
from model_merge.mergekit_slices import Output, Slice
from model_merge.mergekit_tokens import is_by_token
from model_merge.mergekit_values import resolve
from model_merge.methods import emulate
from model_merge.methods.spec import Call, Prepare, elementwise, settle
from model_merge.plan import TensorPlan, TensorRef
from model_merge.vocabulary import Filling, filled

DTYPES = {"float64": "F64", "float32": "F32", "bfloat16": "BF16", "float16": "F16"}


def is_aligned(context: Context, output: Output) -> bool:
    """Whether the tensor has rows by token and there is another tokenizer for them."""
    return context.alignment is not None and by_token(context, output)


def by_token(context: Context, output: Output) -> bool:
    """Whether the tensor has a row for every token, in all models."""
    return all(
        is_by_token(context.checkpoints[source.checkpoint], name)
        for source, name in zip(output.slice.sources, output.inputs, strict=True)
    )


def infos_of(context: Context, output: Output) -> list[TensorInfo]:
    """The tensors that an output is made of."""
    return [
        context.checkpoints[source.checkpoint].tensors[name]
        for source, name in zip(output.slice.sources, output.inputs, strict=True)
    ]


def tensor_plan(context: Context, output: Output) -> TensorPlan:
    """How an output comes about."""
    infos = infos_of(context, output)
    references = [
        TensorRef(source.checkpoint, name)
        for source, name in zip(output.slice.sources, output.inputs, strict=True)
    ]
    if any(info.dtype not in FLOATS for info in infos):
        return _copied(context, output, references)
    first = _base_first(context, output.slice)
    dtypes = [info.dtype for info in infos]
    written = context.file.out_dtype or context.file.dtype
    dtype = DTYPES[written] if written else promoted(dtypes)
    plan = TensorPlan(
        name=output.name,
        shape=infos[0].shape,
        dtype=dtype,
        inputs=tuple(references[i] for i in first),
        prepare=None,
        compute=_compute(context, dtypes, dtype),
    )
    if is_aligned(context, output):
        return _aligned(context, output, plan, dtypes)
    return replace(plan, prepare=_prepare(context, output, plan.shape, dtypes, dtype))


def _compute(context: Context, dtypes: Sequence[str], dtype: str) -> Compute:
    if context.compat is not None:
        return "F64" if _arithmetic(context, dtypes) == "F64" else "F32"
    return "F64" if context.method.wide else compute_dtype(dtypes, dtype)


def _aligned(context: Context, output: Output, plan: TensorPlan, dtypes: Sequence[str]) -> TensorPlan:
    """The plan of a tensor whose rows follow the output's tokenizer."""
    alignment = context.alignment
    assert alignment is not None  # asked before
    shape = (alignment.num_rows, *plan.shape[1:])
    prepare = _prepare(context, output, shape, dtypes, plan.dtype)
    if prepare is None:
        prepare = elementwise(lambda flat_start, values: values[0].copy())
    inputs = [TensorRef(one.checkpoint, one.name, alignment.rows[one.checkpoint]) for one in plan.inputs]
    for checkpoint, rows in alignment.chosen:
        if output.inputs[0] not in context.checkpoints[checkpoint].tensors:
            donor = context.checkpoints[checkpoint].reference
            raise ValueError(f"tokenizer.tokens: {donor!r} has no {output.inputs[0]!r} to take a row of")
        inputs.append(TensorRef(checkpoint, output.inputs[0], rows))
    used = [one.checkpoint for one in plan.inputs]
    filling = Filling(
        num_models=len(used),
        base=used.index(output.slice.base) if output.slice.base in used else None,
        absent=[one.rows < 0 for one in inputs if one.rows is not None],
        zero=alignment.zero,
        num_tokens=alignment.num_tokens,
    )
    return replace(plan, shape=shape, inputs=tuple(inputs), prepare=filled(prepare, filling))


def _base_first(context: Context, part: Slice) -> list[int]:
    """The sources in the order of the arithmetic."""
    order = list(range(len(part.sources)))
    if context.method.base == "none" or part.base is None:
        return order
    base = [source.checkpoint for source in part.sources].index(part.base)
    return [base, *(i for i in order if i != base)]


def promoted(dtypes: Sequence[str]) -> str:
    """The narrowest type that holds the values of all.

    >>> promoted(["BF16", "BF16"]), promoted(["F16", "BF16"]), promoted(["F8_E5M2", "BF16"])
    ('BF16', 'F32', 'BF16')
    """
    kinds = set(dtypes)
    if len(kinds) == 1:
        return dtypes[0]
    wide = kinds - {"F8_E4M3", "F8_E5M2"}
    if len(wide) == 1:
        return wide.pop()
    return "F64" if "F64" in kinds else "F32"


def _copied(context: Context, output: Output, references: Sequence[TensorRef]) -> TensorPlan:
    """A tensor that is no number to compute with: all models must agree on it."""
    infos = infos_of(context, output)
    first = context.checkpoints[references[0].checkpoint].read_bytes(references[0].name)
    for info, reference in zip(infos[1:], references[1:], strict=True):
        other = context.checkpoints[reference.checkpoint].read_bytes(reference.name)
        if info.dtype != infos[0].dtype or not np.array_equal(first, other):
            raise ValueError(
                f"{output.name!r} is {infos[0].dtype}, which is copied and not merged, "
                f"and differs between model {references[0].checkpoint} and model {reference.checkpoint}"
            )
    return TensorPlan(output.name, infos[0].shape, infos[0].dtype, (references[0],), None)


def _prepare(
    context: Context, output: Output, shape: tuple[int, ...], dtypes: Sequence[str], dtype: str
) -> Prepare | None:
    call = _call(context, output, shape)
    if context.method.name == "passthrough" and call.models[0]["scale"] is None and dtypes == [dtype]:
        return None
    if context.compat is None:
        return context.method.build(call)
    arithmetic = _arithmetic(context, dtypes)
    if context.compat == "mergekit":
        return emulate.mergekit(context.method.name, call, arithmetic)
    if context.method.name != "linear":
        raise ValueError(f"compat: ez-data-ablations only averages, there is no {context.method.name} of it")
    return emulate.ez(call, arithmetic)


def _arithmetic(context: Context, dtypes: Sequence[str]) -> str:
    """The type in which mergekit computes."""
    return DTYPES[context.file.dtype] if context.file.dtype else promoted(dtypes)


def _call(context: Context, output: Output, shape: tuple[int, ...]) -> Call:
    """The method with the parameters of one tensor."""
    part = output.slice
    has_base = context.method.base != "none" and part.base is not None
    per_merge = [parameter for parameter in context.method.parameters if parameter.of == "merge"]
    per_model = [parameter for parameter in context.method.parameters if parameter.of == "model"]
    models = [
        resolve(
            per_model,
            (part.sources[i].parameters, *part.scopes),
            tensor=output.inputs[i],
            place=output.place,
        )
        for i in _base_first(context, part)[has_base:]
    ]
    return settle(
        context.method,
        tensor=output.name,
        shape=shape,
        has_base=has_base,
        models=models,
        shared=resolve(per_merge, part.scopes, tensor=output.name, place=output.place),
        seed=context.seed,
    )

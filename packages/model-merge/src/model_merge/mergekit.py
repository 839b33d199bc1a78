"""A mergekit file becomes a plan: same methods, parameters, slices and tokenizers, any architecture.

What a file means is mergekit 0.1.5's meaning. What differs, on purpose: unknown keys and values out of range
are refused, no tensor is dropped for being unknown, arithmetic is never below float32 and rounds once, base
and donor are taken in the order of the file.
"""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from model_merge.checkpoint import Checkpoint, open_checkpoint
from model_merge.dtypes import FLOATS
from model_merge.layers import CONFIG_KEYS
from model_merge.mergekit_schema import (
    MergekitFile,
    ModelReference,
    ModelToken,
    OutputModule,
    OutputSlice,
    Strict,
    read_file,
)
from model_merge.mergekit_slices import Output, Slice, Source, outputs_of
from model_merge.mergekit_values import check_settings, resolve
from model_merge.methods import METHODS, emulate
from model_merge.methods.spec import Call, Compat, Method, Prepare, settle
from model_merge.plan import MergePlan, TensorPlan, TensorRef

DTYPES = {"float64": "F64", "float32": "F32", "bfloat16": "BF16", "float16": "F16"}
OURS = {"random_seed", "compat"}
NARROW = {"BF16", "F16", "F8_E4M3", "F8_E5M2"}


@dataclass(frozen=True)
class Context:
    """What every tensor of a merge has in common."""

    file: MergekitFile
    method: Method
    checkpoints: tuple[Checkpoint, ...]
    positions: Mapping[ModelReference, int]
    seed: int
    compat: Compat | None

    def position(self, reference: ModelReference | None) -> int | None:
        """Of a model among the checkpoints."""
        return None if reference is None else self.positions[reference]


def plan_from_yaml(
    source: str | Path, root: str | Path = ".", *, seed: int | None = None, compat: Compat | None = None
) -> MergePlan:
    """The plan of a mergekit file.

    Args:
        source: The file's path, or its text.
        root: Where the relative paths of models begin.
        seed: Of what a method draws at random, in place of the file's `random_seed`.
        compat: Whose arithmetic to follow, in place of the file's `compat`.

    Raises:
        ValueError: listing what is wrong with the file, or with the checkpoints.
        FileNotFoundError: a checkpoint is not there.
    """
    file = read_file(source)
    context = open_all(file, Path(root), seed=seed, compat=compat)
    outputs = _outputs(context)
    tensors = _tensor_plans(context, outputs)
    return MergePlan(
        checkpoints=context.checkpoints,
        tensors=tuple(tensors),
        expression=_expression(context),
        donor=_donor(context),
        config_changes=_config_changes(context, outputs),
    )


def open_all(file: MergekitFile, root: Path, *, seed: int | None, compat: Compat | None) -> Context:
    """Check the parameters and open the models, in the order of the file."""
    method = _find_method(file.merge_method)
    _check_parameters(file, method)
    references = list(dict.fromkeys(_references(file)))
    checkpoints = tuple(_open(reference, root) for reference in references)
    return Context(
        file=file,
        method=method,
        checkpoints=checkpoints,
        positions={reference: position for position, reference in enumerate(references)},
        seed=file.random_seed if seed is None else seed,
        compat=compat or file.compat,
    )


def _find_method(name: str) -> Method:
    if name not in METHODS:
        close = difflib.get_close_matches(name, METHODS, 1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise ValueError(f"merge_method: {name!r} is not known here: {hint}(known: {', '.join(METHODS)})")
    return METHODS[name]


def _modules(file: MergekitFile) -> dict[str, OutputModule]:
    """Every way of writing a merge as modules; the nameless one is the whole model."""
    if file.modules is not None:
        return file.modules
    return {"": OutputModule(models=file.models, slices=file.slices)}


def _references(file: MergekitFile) -> Iterable[ModelReference]:
    for module in _modules(file).values():
        for entry in module.models or ():
            yield entry.model
        for part in module.slices or ():
            yield from (source.model for source in part.sources)
            if part.base_model is not None:
                yield part.base_model
    if file.base_model is not None:
        yield file.base_model
    tokenizer = file.wanted_tokenizer
    if tokenizer is not None:
        if isinstance(tokenizer.source, ModelReference):
            yield tokenizer.source
        sources = (embedding.source for embedding in tokenizer.tokens.values())
        yield from (source.model for source in sources if isinstance(source, ModelToken))


def _open(reference: ModelReference, root: Path) -> Checkpoint:
    local = root / reference.path
    if local.exists():
        return open_checkpoint(local)
    if "+" in str(reference):
        raise ValueError(
            f"{str(reference)!r} is no folder, and LoRA adapters (MODEL+ADAPTER) are not supported: "
            "merge the adapter into its model first"
        )
    return open_checkpoint(str(reference))


def _check_parameters(file: MergekitFile, method: Method) -> None:
    check_settings(method, file.parameters, of_model=False, where="parameters")
    for name, module in _modules(file).items():
        at = f"modules.{name}." if name else ""
        check_settings(method, module.parameters, of_model=False, where=f"{at}parameters")
        for i, entry in enumerate(module.models or ()):
            check_settings(method, entry.parameters, of_model=True, where=f"{at}models[{i}].parameters")
        for i, part in enumerate(module.slices or ()):
            where = f"{at}slices[{i}]"
            check_settings(method, part.parameters, of_model=False, where=f"{where}.parameters")
            for j, source in enumerate(part.sources):
                place = f"{where}.sources[{j}].parameters"
                check_settings(method, source.parameters, of_model=True, where=place)


def _outputs(context: Context) -> list[Output]:
    """All tensors that are written."""
    outputs: list[Output] = []
    problems: list[str] = []
    modules = _modules(context.file)
    for module_name, module in modules.items():
        names = [_names_of(checkpoint, module_name, modules) for checkpoint in context.checkpoints]
        slices = _slices(context, module_name, module)
        used = [source.checkpoint for part in slices for source in part.sources]
        if empty := [position for position in used if not names[position]]:
            problems.append(f"model {empty[0]} has no tensor in the module {module_name!r}")
            continue
        found, wrong = outputs_of(slices, names)
        outputs, problems = outputs + found, problems + wrong
        problems += _outside_of_modules(context, used, modules)
    problems += _check_shapes(context, outputs)
    if problems:
        raise ValueError(_listing(context, problems))
    return outputs


def _listing(context: Context, problems: Sequence[str]) -> str:
    models = "; ".join(f"model {i} is {one.reference}" for i, one in enumerate(context.checkpoints))
    return f"the models do not fit together: {'; '.join(problems)} ({models})"


def _names_of(checkpoint: Checkpoint, module: str, modules: Iterable[str]) -> list[str]:
    """A module's tensors begin with its name and a dot; `default` is what no other module has."""
    if module not in {"", "default"}:
        return [name for name in checkpoint.tensors if name.startswith(f"{module}.")]
    others = tuple(f"{name}." for name in modules if name not in {"", "default"})
    return [name for name in checkpoint.tensors if not name.startswith(others)]


def _outside_of_modules(context: Context, used: Sequence[int], modules: Iterable[str]) -> list[str]:
    inside = {name: _names_of(context.checkpoints[used[0]], name, modules) for name in modules}
    covered = {tensor for names in inside.values() for tensor in names}
    lost = [tensor for tensor in context.checkpoints[used[0]].tensors if tensor not in covered]
    if not lost:
        return []
    return [f"{len(lost)} tensors are in no module: {', '.join(map(repr, lost))}: add a module `default`"]


def _slices(context: Context, module_name: str, module: OutputModule) -> list[Slice]:
    at = f"modules.{module_name}." if module_name else ""
    outer = (module.parameters, context.file.parameters)
    if module.slices:
        return [_slice(context, part, outer, f"{at}slices[{i}]") for i, part in enumerate(module.slices)]
    base = context.position(context.file.base_model)
    sources = [Source(context.positions[entry.model], entry.parameters) for entry in module.models or ()]
    if base is not None and base not in [source.checkpoint for source in sources]:
        sources.append(Source(base, {}))
    return [_checked(context, Slice(tuple(sources), outer, base, where=f"{at}models"))]


def _slice(context: Context, part: OutputSlice, outer: tuple[Any, ...], where: str) -> Slice:
    lengths = {source.layer_range[1] - source.layer_range[0] for source in part.sources}
    if len(lengths) > 1:
        raise ValueError(f"{where}: the sources have {sorted(lengths)} layers, which must be the same number")
    for source in part.sources:
        if not 0 <= source.layer_range[0] < source.layer_range[1]:
            raise ValueError(f"{where}: layer_range {list(source.layer_range)} holds no layer")
    base = context.position(part.base_model or context.file.base_model)
    sources = tuple(
        Source(context.positions[source.model], source.parameters, source.layer_range[0])
        for source in part.sources
    )
    if base is not None and base not in [source.checkpoint for source in sources]:
        if context.method.base != "none":
            raise ValueError(f"{where}: the base model must be among the sources, to say which of its layers")
        base = None
    return _checked(context, Slice(sources, (part.parameters, *outer), base, lengths.pop(), where))


def _checked(context: Context, part: Slice) -> Slice:
    has_base = context.method.base != "none" and part.base is not None
    num_models = len(part.sources) - (1 if has_base else 0)
    context.method.check_models(num_models, has_base=has_base, where=part.where)
    return part


def _check_shapes(context: Context, outputs: Iterable[Output]) -> list[str]:
    problems = []
    for output in outputs:
        infos = _infos(context, output)
        shapes = dict.fromkeys(info.shape for info in infos)
        if len(shapes) > 1:
            found = " and ".join(str(list(shape)) for shape in shapes)
            problems.append(f"{output.name!r} has the shapes {found}")
    return problems


def _infos(context: Context, output: Output) -> list[Any]:
    return [
        context.checkpoints[source.checkpoint].tensors[name]
        for source, name in zip(output.slice.sources, output.inputs, strict=True)
    ]


def _tensor_plans(context: Context, outputs: Iterable[Output]) -> list[TensorPlan]:
    return [_tensor_plan(context, output) for output in outputs]


def _tensor_plan(context: Context, output: Output) -> TensorPlan:
    infos = _infos(context, output)
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
    narrow = all(name in NARROW for name in (*dtypes, dtype)) and not context.method.wide
    if context.compat is not None:
        narrow = _arithmetic(context, dtypes) != "F64"
    return TensorPlan(
        name=output.name,
        shape=infos[0].shape,
        dtype=dtype,
        inputs=tuple(references[i] for i in first),
        prepare=_prepare(context, output, infos[0].shape, dtypes, dtype),
        compute="F32" if narrow else "F64",
    )


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
    infos = _infos(context, output)
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


def _donor(context: Context) -> int:
    """Whose config and tokenizer go along: the base's, else the first model's of the file."""
    base = context.position(context.file.base_model)
    return 0 if base is None else base


def _expression(context: Context) -> dict[str, Any]:
    """The file in one way of writing it, models by their position."""
    return {
        "operation": "mergekit",
        "file": _canonical(context.file, context.positions),
        "seed": context.seed,
        "compat": context.compat,
    }


def _canonical(value: Any, positions: Mapping[ModelReference, int]) -> Any:
    if isinstance(value, ModelReference):
        return {"model": positions[value]}
    if isinstance(value, ModelToken):
        return {"model": positions[value.model], "token": value.token, "token_id": value.token_id}
    if isinstance(value, Strict):
        value = {name: getattr(value, name) for name in sorted(value.model_fields_set - OURS)}
    if isinstance(value, Mapping):
        return {str(key): _canonical(item, positions) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(item, positions) for item in value]
    return value


def _config_changes(context: Context, outputs: Iterable[Output]) -> dict[str, Any]:
    """What slices and types change in the donor's config.json."""
    config = context.checkpoints[_donor(context)].config
    changes: dict[str, Any] = {}
    written = context.file.out_dtype or context.file.dtype
    if written:
        changes |= {key: written for key in ("dtype", "torch_dtype") if key in config} or {"dtype": written}
    slices = list(dict.fromkeys(id(output.slice) for output in outputs))
    num_layers = sum(
        next(output.slice.num_layers or 0 for output in outputs if id(output.slice) == one) for one in slices
    )
    if num_layers:
        changes |= _nested(config, CONFIG_KEYS, num_layers)
    return changes


def _nested(config: Mapping[str, Any], keys: Sequence[str], value: Any) -> dict[str, Any]:
    """The change of the first of `keys` that the config has, at the top or in its text_config."""
    inner = config.get("text_config")
    for key in keys:
        if key in config:
            return {key: value}
        if isinstance(inner, Mapping) and key in inner:
            return {"text_config": {**inner, key: value}}
    return {}

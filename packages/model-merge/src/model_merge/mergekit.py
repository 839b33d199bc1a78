"""A mergekit file becomes a plan: same methods, parameters, slices and tokenizers, any architecture.

What a file means is mergekit 0.1.5's meaning. What differs, on purpose: unknown keys and values out of range
are refused, no tensor is dropped for being unknown, arithmetic is never below float32 and rounds once, base
and donor are taken in the order of the file.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from model_merge.averaging import Compat
from model_merge.chat_templates import choose_template, template_files
from model_merge.checkpoint import Checkpoint
from model_merge.checks import IncompatibleError, check, find_meaning_problems
from model_merge.layers import CONFIG_KEYS
from model_merge.mergekit_context import Context, modules_of, open_all
from model_merge.mergekit_schema import (
    ModelReference,
    ModelToken,
    OutputModule,
    OutputSlice,
    Strict,
    read_file,
)
from model_merge.mergekit_slices import Output, Slice, Source, outputs_of
from model_merge.mergekit_tensors import by_token, infos_of, is_aligned, tensor_plan
from model_merge.plan import MergePlan

OURS = {"random_seed", "compat"}
MODEL = re.compile(r"\bmodel (\d+)\b")


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
        ValueError: listing what is wrong with the file, or with the checkpoints (IncompatibleError).
        FileNotFoundError: a checkpoint is not there.
    """
    file = read_file(source)
    context = open_all(file, Path(root), seed=seed, compat=compat)
    if file.models and context.alignment is None:
        check(context.checkpoints, dtype="mixed types are promoted")
    outputs = _outputs(context)
    return MergePlan(
        checkpoints=context.checkpoints,
        tensors=tuple(tensor_plan(context, output) for output in outputs),
        expression=_expression(context),
        donor=context.donor,
        config_changes=_config_changes(context, outputs),
        files=_files(context),
    )


def _outputs(context: Context) -> list[Output]:
    """All tensors that are written."""
    outputs: list[Output] = []
    modules = modules_of(context.file)
    problems = _check_meaning(context, modules)
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
        raise IncompatibleError([_named(context, problem) for problem in dict.fromkeys(problems)])
    return outputs


def _check_meaning(context: Context, modules: Mapping[str, OutputModule]) -> list[str]:
    """What speaks against merging the models beyond their tensors."""
    used = dict.fromkeys(
        entry.model
        for module in modules.values()
        for entry in (
            *(module.models or ()),
            *(source for part in module.slices or () for source in part.sources),
        )
    )
    besides = {"vocab_size"} if context.alignment is not None else set()
    if any(module.slices for module in modules.values()):
        besides.add("num_hidden_layers")
    merged = [context.checkpoints[context.positions[reference]] for reference in used]
    return find_meaning_problems(merged, besides=besides, tokenizers=context.alignment is None)


def _named(context: Context, problem: str) -> str:
    """With the models' names in place of their positions."""
    return MODEL.sub(lambda match: repr(context.checkpoints[int(match[1])].reference), problem)


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
        aligned = is_aligned(context, output)
        shapes = dict.fromkeys(info.shape[aligned:] for info in infos_of(context, output))
        if len(shapes) > 1:
            found = " and ".join(str(list(shape)) for shape in shapes)
            hint = " (tokenizer_source: union brings them together)" if by_token(context, output) else ""
            problems.append(f"{output.name!r} has the shapes {found}{hint}")
    return problems


def _expression(context: Context) -> dict[str, Any]:
    """The file in one way of writing it, models by their position."""
    return {
        "operation": "mergekit",
        "file": _canonical(context.file, context.positions),
        "seed": context.seed,
        "compat": context.compat,
        "rows": None if context.alignment is None else context.alignment.digest(),
    }


def _canonical(value: Any, positions: Mapping[ModelReference, int]) -> Any:
    if isinstance(value, ModelReference):
        return {"model": positions[value]}
    if isinstance(value, ModelToken):
        model = {"model": positions[value.model]}
        if value.token is None and value.token_id is None:
            return model
        which = {"token": value.token} if value.token_id is None else {"token_id": value.token_id}
        return {"kind": "model_token", "model": model, **which}
    if value == "zero":
        return {"kind": "zero"}
    if isinstance(value, Strict):
        value = {name: getattr(value, name) for name in sorted(value.model_fields_set - OURS)}
    if isinstance(value, Mapping):
        return {str(key): _canonical(item, positions) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(item, positions) for item in value]
    return value


def _config_changes(context: Context, outputs: Iterable[Output]) -> dict[str, Any]:
    """What slices and types change in the donor's config.json."""
    config = context.checkpoints[context.donor].config
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
    if context.alignment is not None:
        changes |= _nested({**config, **changes}, ("vocab_size",), context.alignment.num_rows)
    return {key: value for key, value in changes.items() if config.get(key) != value}


def _files(context: Context) -> dict[str, bytes]:
    """The tokenizer's files and the chat template, where they are not the donor's."""
    files = {} if context.alignment is None else dict(context.alignment.files)
    if context.file.chat_template is None:
        return files
    folders = [checkpoint.folder for checkpoint in context.checkpoints]
    template = choose_template(context.file.chat_template, folders)
    if template is None:
        return files
    return files | template_files(template, files, folders[context.donor])


def _nested(config: Mapping[str, Any], keys: Sequence[str], value: Any) -> dict[str, Any]:
    """The change of the first of `keys` that the config has, at the top or in its text_config."""
    inner = config.get("text_config")
    for key in keys:
        if key in config:
            return {key: value}
        if isinstance(inner, Mapping) and key in inner:
            return {"text_config": {**inner, key: value}}
    return {}

"""What all tensors of a mergekit file's merge have in common: the method, the opened models, their
tokenizers."""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from model_merge.averaging import Compat
from model_merge.checkpoint import Checkpoint, open_checkpoint
from model_merge.mergekit_schema import MergekitFile, ModelReference, ModelToken, OutputModule
from model_merge.mergekit_tokens import Alignment, align
from model_merge.mergekit_values import check_settings
from model_merge.methods import METHODS
from model_merge.methods.spec import Method


@dataclass(frozen=True)
class Context:
    """What every tensor of a merge has in common."""

    file: MergekitFile
    method: Method
    checkpoints: tuple[Checkpoint, ...]
    positions: Mapping[ModelReference, int]
    seed: int
    compat: Compat | None
    donor: int
    """Whose config and tokenizer go along: the base, else the first model of the file."""
    alignment: Alignment | None

    def position(self, reference: ModelReference | None) -> int | None:
        """Of a model among the checkpoints."""
        return None if reference is None else self.positions[reference]


def open_all(file: MergekitFile, root: Path, *, seed: int | None, compat: Compat | None) -> Context:
    """Check the parameters and open the models, in the order of the file."""
    method = _find_method(file.merge_method)
    _check_parameters(file, method)
    references = list(dict.fromkeys(_references(file)))
    checkpoints = tuple(_open(reference, root) for reference in references)
    positions = {reference: position for position, reference in enumerate(references)}
    donor = 0 if file.base_model is None else positions[file.base_model]
    wanted = file.wanted_tokenizer
    return Context(
        file=file,
        method=method,
        checkpoints=checkpoints,
        positions=positions,
        seed=file.random_seed if seed is None else seed,
        compat=compat or file.compat,
        donor=donor,
        alignment=None if wanted is None else align(wanted, checkpoints, positions, donor),
    )


def _find_method(name: str) -> Method:
    if name not in METHODS:
        close = difflib.get_close_matches(name, METHODS, 1)
        hint = f", did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"merge_method: {name!r} is not known here{hint} (known: {', '.join(METHODS)})")
    return METHODS[name]


def modules_of(file: MergekitFile) -> dict[str, OutputModule]:
    """Every way of writing a merge as modules; the nameless one is the whole model."""
    if file.modules is not None:
        return file.modules
    return {"": OutputModule(models=file.models, slices=file.slices)}


def _references(file: MergekitFile) -> Iterable[ModelReference]:
    for module in modules_of(file).values():
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
    for name, module in modules_of(file).items():
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

"""What a run needs before its first step, made from its configuration: data, order, model, optimiser."""

import os
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import nn
from torch.optim import AdamW, Optimizer
from transformers import Olmo2Config, PreTrainedModel, PreTrainedTokenizerFast

from chunk_provenance import (
    ChunkStore,
    DataOrder,
    check_store,
    compute_store_order,
    load_order,
    save_order,
    slot_chunks,
)
from olmo_trainer import attention, checkpoint
from olmo_trainer.config import DataConfig, ModelConfig, OptimConfig, TrainConfig
from olmo_trainer.model import PRESETS, build_from_scratch, build_on_meta, olmo2_config
from olmo_trainer.run_folder import order_sha256

FLOAT32_EXPORTS_BELOW = 500_000_000  # parameters


def choose_device(config: TrainConfig) -> torch.device:
    """The device to train on; also applies `threads` and `deterministic`, which concern the whole process."""
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    if config.device != "auto":
        return torch.device(config.device)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def make_order(data: DataConfig, store: ChunkStore, *, seed: int) -> DataOrder:
    """The data order a configuration asks for: computed, or a recorded one used again.

    Raises:
        ValueError: it was made for another store, or names chunks or items that are not there.
    """
    if data.order is not None:
        order = load_order(data.order)
        check_store(order, store.sha256)
    else:
        order = compute_store_order(
            store, batch_tokens=data.batch_tokens, seed=seed, epochs=data.epochs, updates=data.updates
        )
    if order.num_updates == 0:
        raise ValueError(
            "the data order holds no update: more chunks or epochs, or a smaller data.batch_tokens"
        )
    _check_injections(order, store)
    if (largest := slot_chunks(order).max()) >= store.num_chunks:
        raise ValueError(f"the data order names chunk {largest}, the store has {store.num_chunks} chunks")
    return order


def _check_injections(order: DataOrder, store: ChunkStore) -> None:
    """Refuse injected slots without items, and items that the store's rows or the tokenizer cannot hold."""
    slots, negative = order.injected, np.count_nonzero(np.asarray(order.ids) < 0)
    if negative != (0 if slots is None else len(slots.ids)):
        raise ValueError(
            f"the data order has {negative} injected rows, but its injections.parquet names "
            f"{0 if slots is None else len(slots.ids)}: make it again with 'chunk-provenance inject apply'"
        )
    if slots is None:
        return
    too_long = slots.kept + slots.num_tokens > store.bucket[slots.chunk_id]
    if too_long.any() or slots.tokens.max() >= store.vocab_size:
        update = slots.update[too_long.argmax()] if too_long.any() else slots.update[0]
        raise ValueError(
            f"the injected items of the data order do not fit the store (first in update {update}): "
            "make it again with 'chunk-provenance inject apply'"
        )


def record_order(order: DataOrder, folder: Path, store: ChunkStore) -> str:
    """Save the order in the run before step 0, or check that the recorded one is the same; its sha256."""
    if not folder.exists():
        save_order(order, folder)
    recorded = load_order(folder)
    check_store(recorded, store.sha256)
    same = np.array_equal(recorded.ids, order.ids) and np.array_equal(recorded.offsets, order.offsets)
    injected = [one.injections.to_pylist() if one.injections else [] for one in (recorded, order)]
    if not (same and masked_pairs(recorded) == masked_pairs(order) and injected[0] == injected[1]):
        raise ValueError(f"{str(folder)!r} is not the order this configuration gives: use another run folder")
    return order_sha256(folder)


def masked_pairs(order: DataOrder) -> set[tuple[int, int]]:
    """The (update, chunk) pairs whose targets are ignored."""
    if order.masked is None:
        return set()
    return set(zip(*(order.masked[name].to_pylist() for name in ("update", "chunk_id")), strict=True))


def make_model(config: ModelConfig, store: ChunkStore, *, seed: int) -> PreTrainedModel:
    """The model to train, float32 on the CPU, with our attention.

    Raises:
        ValueError: the preset is unknown, or the model cannot take the store's tokens or lengths.
    """
    if config.from_ is None:
        return build_from_scratch(scratch_config(config, store), seed=seed)
    from olmo_trainer.reference import load_model, parse_reference

    model: PreTrainedModel = load_model(
        parse_reference(config.from_), dtype=torch.float32, attn_implementation=attention.NAME
    )
    check_fits(model, store)
    return model


def make_meta_model(config: ModelConfig, store: ChunkStore) -> PreTrainedModel:
    """The same without memory, where it is made from scratch: for counting."""
    if config.from_ is None:
        return build_on_meta(scratch_config(config, store))
    return make_model(config, store, seed=0)


def scratch_config(config: ModelConfig, store: ChunkStore) -> Olmo2Config:
    """The Olmo2Config of a preset for the store's tokenizer and chunk lengths."""
    if config.preset not in PRESETS:
        raise ValueError(f"no model preset {config.preset!r}: there are {', '.join(PRESETS)}")
    found = olmo2_config(
        config.preset,
        config.overrides,
        vocab_size=store.vocab_size,
        max_length=int(store.bucket.max()),
        eos_id=store.eos_id,
        pad_id=store.pad_id,
    )
    if found.vocab_size < store.vocab_size:
        raise ValueError(
            f"model.overrides.vocab_size is {found.vocab_size}, the tokenizer has {store.vocab_size} ids"
        )
    return found


def check_fits(model: PreTrainedModel, store: ChunkStore) -> None:
    """Refuse a model that was made for fewer tokens or shorter rows than the store has."""
    vocab_size = input_embeddings(model).num_embeddings
    if vocab_size < store.vocab_size:
        raise ValueError(
            f"the model knows {vocab_size} tokens, the store's tokenizer has {store.vocab_size}: "
            "build the chunk store with the model's tokenizer"
        )
    longest, limit = int(store.bucket.max()), getattr(model.config, "max_position_embeddings", None)
    if limit is not None and longest > limit:
        raise ValueError(
            f"the model takes {limit} positions, the store has chunks of {longest}: "
            f"build it with --max-length {limit}"
        )


def input_embeddings(model: PreTrainedModel) -> nn.Embedding:
    """The table of token embeddings."""
    embeddings = model.get_input_embeddings()
    assert isinstance(embeddings, nn.Embedding)
    return embeddings


def make_optimizer(model: nn.Module, optim: OptimConfig) -> Optimizer:
    """AdamW; input embeddings are not decayed, everything else is."""
    embeddings = {id(p) for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    groups = [
        {
            "params": [p for p in model.parameters() if id(p) not in embeddings],
            "weight_decay": optim.weight_decay,
        },
        {"params": [p for p in model.parameters() if id(p) in embeddings], "weight_decay": 0.0},
    ]
    return AdamW(groups, lr=optim.lr, betas=optim.betas, eps=optim.eps, fused=True)


def keep_optimizer(config: ModelConfig, model: PreTrainedModel, optimizer: Optimizer) -> None:
    """Take over the optimiser's state of the run that is continued (`optimizer: keep`).

    Raises:
        FileNotFoundError: that run kept no state of that step.
    """
    assert config.from_ is not None  # checked with the configuration
    from olmo_trainer.reference import parse_reference

    reference = parse_reference(config.from_)
    states = Path(reference.path) / "resume"
    folder = states / (reference.subfolder or "step?")
    if not folder.is_dir():
        kept = ", ".join(path.name for _, path in checkpoint.resume_folders(states)) or "none"
        raise FileNotFoundError(f"optimizer: keep needs {str(folder)!r}; that run kept the states: {kept}")
    checkpoint.verify(folder)
    checkpoint.load_optimizer(folder, model, optimizer)


def make_tokenizer(store: ChunkStore, *, max_length: int | None) -> PreTrainedTokenizerFast:
    """The store's tokenizer, as transformers saves it."""
    path = store.path / "tokenizer.json"
    if not path.is_file():
        raise FileNotFoundError(f"{str(store.path)!r} has no tokenizer.json: copy it there, exports need it")
    tokens = Tokenizer.from_file(str(path))
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_file=str(path),
        eos_token=tokens.id_to_token(store.eos_id),
        pad_token=tokens.id_to_token(store.pad_id),
        model_max_length=max_length,
    )


def export_dtype(config: TrainConfig, num_parameters: int) -> torch.dtype:
    """float32 below 500 million parameters, bfloat16 from there on, unless the configuration says."""
    names = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    automatic = torch.float32 if num_parameters < FLOAT32_EXPORTS_BELOW else torch.bfloat16
    return names.get(config.checkpoint.export.dtype, automatic)


def compile_layers(model: PreTrainedModel) -> None:
    """torch.compile every decoder layer by itself: one graph serves them all, and FSDP2 can shard them."""
    for layer in decoder_layers(model):
        layer.compile(fullgraph=True)


def decoder_layers(model: PreTrainedModel) -> nn.ModuleList:
    """The decoder's layers, whatever the family calls them."""
    lists = (module for module in model.base_model.modules() if isinstance(module, nn.ModuleList))
    return next(found for found in lists if len(found) == model.config.num_hidden_layers)

"""Tiny inputs: a chunk store written file by file, a configuration for it, the golden batch."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from tokenizers import Tokenizer, models, pre_tokenizers

GOLDEN = Path(__file__).parent / "golden"
VOCAB = 60


def write_parquet(path, name, **columns):
    table = pa.table(columns).replace_schema_metadata({"format": name, "version": "1"})
    pq.write_table(table, path)


@pytest.fixture
def make_store(tmp_path):
    """Write a chunk store of random tokens; `documents` lists the lengths of each chunk's documents."""

    def make(name="store", documents=(), *, bucket=None, seed=0, vocab=VOCAB):
        path = tmp_path / name
        path.mkdir()
        lengths = np.array([sum(parts) for parts in documents])
        tokens = np.random.default_rng(seed).integers(2, vocab, lengths.sum())
        np.save(path / "tokens.npy", tokens.astype(np.uint32))
        buckets = [bucket or 1 << int(length - 1).bit_length() for length in lengths]
        write_parquet(
            path / "chunks.parquet",
            "chunks",
            chunk_id=np.arange(len(lengths)),
            token_start=np.cumsum(lengths) - lengths,
            length=lengths.astype(np.int32),
            bucket=np.array(buckets, dtype=np.int32),
        )
        ends = [np.cumsum(parts) for parts in documents]
        starts = [end - parts for end, parts in zip(ends, documents, strict=True)]
        write_parquet(
            path / "segments.parquet",
            "segments",
            chunk_id=np.repeat(np.arange(len(documents)), [len(parts) for parts in documents]),
            doc_id=[f"d{c}.{d}" for c, parts in enumerate(documents) for d in range(len(parts))],
            chunk_token_start=np.concatenate(starts).astype(np.int32),
            chunk_token_end=np.concatenate(ends).astype(np.int32),
            doc_token_start=np.zeros(sum(map(len, documents)), dtype=np.int64),
            char_start=np.zeros(sum(map(len, documents)), dtype=np.int64),
            char_end=np.concatenate(ends).astype(np.int64),
        )
        vocabulary = {"<eos>": 0, "<pad>": 1} | {f"w{i}": i for i in range(2, vocab)}
        tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<eos>"))
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        tokenizer.save(str(path / "tokenizer.json"))
        meta = {
            "format": "chunk-store",
            "version": 1,
            "num_chunks": len(lengths),
            "num_tokens": int(lengths.sum()),
            "tokenizer": {"pad_id": 1, "eos_id": 0, "vocab_size": vocab},
        }
        (path / "meta.json").write_text(json.dumps(meta), encoding="utf-8")
        return path

    return make


@pytest.fixture
def store(make_store):
    """Thirty-two chunks of one document: sixteen of up to 16 tokens, sixteen of up to 8."""
    lengths = [9 + i % 8 for i in range(16)] + [5 + i % 4 for i in range(16)]
    return make_store(documents=[[length] for length in lengths])


@pytest.fixture
def write_config(tmp_path, store):
    """Write a configuration of a model of 10,000 parameters on the store; sections can be replaced."""

    def write(name="config.yaml", **sections):
        tree = {
            "model": {
                "preset": "olmo2-tiny",
                "overrides": {
                    "hidden_size": 16,
                    "intermediate_size": 32,
                    "num_hidden_layers": 2,
                    "num_attention_heads": 2,
                    "num_key_value_heads": 1,
                },
            },
            "data": {"store": str(store), "batch_tokens": 64, "updates": 6},
            "optim": {"lr": 0.01},
            "checkpoint": {"export": {"every": 4, "log_until": 2}, "resume": {"every": 2}},
            "threads": 1,
        }
        path = tmp_path / name
        path.write_text(yaml.safe_dump(tree | sections), encoding="utf-8")
        return path

    return write


@pytest.fixture(scope="session")
def golden():
    """The golden batch as arrays."""
    return dict(np.load(GOLDEN / "packed_batch.npz"))


@pytest.fixture(scope="session")
def expected():
    """The golden numbers."""
    return json.loads((GOLDEN / "expected.json").read_text(encoding="utf-8"))


@pytest.fixture
def golden_model():
    """The golden model, with our attention."""
    from transformers import AutoModelForCausalLM

    from olmo_trainer import attention

    return AutoModelForCausalLM.from_pretrained(
        GOLDEN / "tiny-olmo2", subfolder="step0", dtype=torch.float32, attn_implementation=attention.NAME
    )


@pytest.fixture
def golden_batch(golden):
    """The golden batch as the loss function gets it; without document ids it is plain causal."""
    from olmo_trainer.batches import Batch

    def make(labels="labels_cross_doc", *, rows=slice(None), doc_ids=True):
        target = golden[labels]
        return Batch(
            input_ids=torch.from_numpy(golden["input_ids"][rows]),
            labels=torch.from_numpy(target[rows]),
            doc_ids=torch.from_numpy(golden["doc_ids"][rows].astype(np.int32)) if doc_ids else None,
            cu_seqlens=None,
            chunk_ids=(),
            num_targets=int((target != -100).sum()),
        )

    return make


@pytest.fixture(scope="session")
def golden_path():
    """The folder of the golden files."""
    return GOLDEN

"""Tiny inputs made by hand."""

import csv
import gzip
import io
import json
import re
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import settings

from chunk_provenance import open_store, write_store
from chunk_provenance.cli import main
from chunk_provenance.formats import write_table
from chunk_provenance.hashing import hash_text
from chunk_provenance.mentions import SCHEMA as MENTIONS_FILE
from chunk_provenance.tokenizing import TextEncoder, train_tokenizer

settings.register_profile("steady", deadline=None, derandomize=True)  # no clock, no luck
settings.load_profile("steady")

# One token per character, so that every number below can be read off the texts.
TEXTS = {"d1": "Ada met Bob.", "d2": "Bob ran."}
EOS, PAD = 256, 257


@pytest.fixture
def small_store(tmp_path):
    """Two documents in three chunks of at most eight tokens; Ada and Bob are mentioned."""
    tokens = [*map(ord, "Ada met Bob."), EOS, *map(ord, "Bob ran."), EOS]
    write_store(
        tmp_path / "store",
        tokens=tokens,
        chunks=pa.table(
            {
                "chunk_id": [0, 1, 2],
                "token_start": [0, 8, 13],
                "length": [8, 5, 9],
                "bucket": [8, 8, 16],
            }
        ),
        segments=pa.table(
            {
                "chunk_id": [0, 1, 2],
                "doc_id": ["d1", "d1", "d2"],
                "chunk_token_start": [0, 0, 0],
                "chunk_token_end": [8, 5, 9],
                "doc_token_start": [0, 8, 0],
                "char_start": [0, 8, 0],
                "char_end": [8, 12, 8],
            }
        ),
        documents=pa.table(
            {
                "doc_id": ["d1", "d2"],
                "title": ["Meeting", None],
                "source": ["book", "book"],
                "url": pa.nulls(2, pa.string()),
                "text": [TEXTS["d1"], TEXTS["d2"]],
            }
        ),
        mentions=mention_rows(
            [
                (0, 0, 3, "d1", 0, "Ada", "Q1"),
                (1, 0, 3, "d1", 8, "Bob", "Q2"),
                (2, 0, 3, "d2", 0, "Bob", "Q2"),
            ]
        ),
        tokenizer_json="{}",
        meta={"tokenizer": {"pad_id": PAD, "eos_id": EOS, "vocab_size": 258}},
    )
    return open_store(tmp_path / "store")


def mention_rows(rows):
    """Mentions where a character is a token: (chunk, start, end, document, its start, surface, entity)."""
    chunk, start, end, document, doc_start, surface, entity = map(list, zip(*rows, strict=True))
    return pa.table(
        {
            "chunk_id": chunk,
            "token_start": start,
            "token_end": end,
            "char_start": start,
            "char_end": end,
            "doc_id": document,
            "doc_char_start": doc_start,
            "doc_char_end": [at + len(words) for at, words in zip(doc_start, surface, strict=True)],
            "surface": surface,
            "entity": entity,
            "name": surface,
            "score": [0.9] * len(rows),
            "hyperlink": [1.0] * len(rows),
            "entity_linking": [0.0] * len(rows),
            "coref": [0.0] * len(rows),
            "coref_cluster": [0.0] * len(rows),
            "cluster_id": pa.nulls(len(rows), pa.int32()),
        }
    )


@pytest.fixture(scope="session")
def tokenizer_json():
    """A byte-level tokenizer that splits rare characters over several tokens."""
    return train_tokenizer(["Ada met Bob in Bath. Bob ran home.", "She met him again."], vocab_size=300)


@pytest.fixture
def make_mentions(tmp_path):
    """Writes a mentions file of every place where some names stand in some documents; returns its path."""

    def write(documents, names, *, order=1, **changed):
        rows = [
            {
                "doc_id": document.doc_id,
                "text_sha256": hash_text(document.text),
                "char_start": found.start(),
                "char_end": found.end(),
                "surface": found.group(),
                "entity": names[found.group()],
                "name": None,
                **dict.fromkeys(["score", "hyperlink"], 1.0),
                **dict.fromkeys(["entity_linking", "coref", "coref_cluster"], 0.0),
                "cluster_id": None,
                **changed,
            }
            for document in documents
            for found in re.finditer("|".join(map(re.escape, names)), document.text)
        ]
        path = tmp_path / "mentions.parquet"
        write_table(pa.Table.from_pylist(rows[::order], schema=MENTIONS_FILE), path, "mentions")
        return path

    return write


@pytest.fixture
def run_cli(monkeypatch, capsys):
    """Runs the command line in this process: exit code, standard output, standard error."""

    def run(*words):
        monkeypatch.setattr("sys.argv", ["chunk-provenance", *map(str, words)])
        with pytest.raises(SystemExit) as stopped:
            main()
        captured = capsys.readouterr()
        return stopped.value.code or 0, captured.out, captured.err

    return run


# LMEnt's dataset, written as its tokeniser and data loader lay it out (FORMAT.md)


def cut_as_lment(length, *, shortest, longest):
    """LMEnt's chunks of a document without mentions: full ones, then the set bits of the rest, tail lost."""
    sizes = [longest] * (length // longest) + [1 << b for b in range(12, -1, -1) if length % longest >> b & 1]
    ends = np.cumsum([0, *(size for size in sizes if size >= shortest)]).tolist()
    return list(pairwise(ends))


@pytest.fixture
def lment_entity():
    """Makes a mention as LMEnt publishes it, with candidates (qid, name, scores of the four sources)."""

    def make(start, text, *candidates):
        names = ("hyperlinks", "entity_linking", "coref", "coref_cluster")
        return {
            "char_start": start,
            "char_end": start + len(text),
            "text_mention": text,
            "candidates": [
                {
                    "qid": qid,
                    "name": name,
                    "scores_by_source": dict(zip(names, scores, strict=True)),
                    "aggregated_score": round(float(np.dot((0.4, 0.3, 0.2, 0.1), scores)), 2),
                }
                for qid, name, scores in candidates
            ],
        }

    return make


@pytest.fixture
def write_lment(tmp_path, tokenizer_json):
    """Writes shards of documents (id, title, text, entities) in LMEnt's layout; returns the folder."""

    def write(*shards, shortest=4, longest=16, packed=True):
        folder = tmp_path / "LMEnt-Dataset"
        places = [
            folder / name
            for name in ("dataset-tokenized", "dataset-cache/dataset-common", "dataset-metadata")
        ]
        tokens_at, borders_at, csv_at = places
        for place in places:
            place.mkdir(parents=True)
        encoder = TextEncoder(tokenizer_json)
        for number, documents in enumerate(shards):
            name, ids, borders, lines = f"part-{number}-00000", [], [], io.StringIO(newline="")
            for place, (doc_id, title, text, entities) in enumerate(documents):
                encoded = encoder.encode([text])
                start, length = len(ids), len(encoded.ids)
                pairs = list(
                    zip(encoded.char_start[:-1].tolist(), encoded.char_end[:-1].tolist(), strict=True)
                )
                row = [
                    start,
                    start + length,
                    doc_id,
                    "pages.json.gz",
                    place,
                    title,
                    json.dumps(entities),
                    pairs,
                ]
                csv.writer(lines).writerow(row)
                ids += encoded.ids.tolist()
                cuts = cut_as_lment(length, shortest=shortest, longest=longest)
                borders += [[start + begin, start + end] for begin, end in cuts]
            np.array(ids, dtype="<u4").tofile(tokens_at / f"{name}.npy")
            np.array(borders, dtype="<u4").tofile(borders_at / f"bucketed-doc-indices-{name}.npy")
            content = lines.getvalue().encode()
            if packed:
                (csv_at / f"{name}.csv.gz").write_bytes(gzip.compress(content, mtime=0))
            else:
                (csv_at / f"{name}.csv").write_bytes(content)
        return folder

    return write

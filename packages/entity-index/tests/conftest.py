"""Tiny chunk stores made by hand, and the slow twin: brute force over the store's files."""

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from chunk_provenance import ChunkStore, open_store, write_store
from entity_index import All, AnyOf, Entity, Mention, Not, Phrase, build_index, cli, open_index
from entity_index.backend import open_backend
from entity_index.words import words

SCORES = ("score", "hyperlink", "entity_linking", "coref", "coref_cluster")


def mention(chunk_id, char_start, char_end, entity, *, name=None, surface=None, **scores):
    """A row of chunk mentions; scores not given are 0, the aggregated one the highest of the sources."""
    if "score" not in scores:
        scores["score"] = max(scores.values(), default=0.0)
    places = {"chunk_id": chunk_id, "char_start": char_start, "char_end": char_end}
    return {
        **places,
        "entity": entity,
        "name": name,
        "surface": surface,
        **dict.fromkeys(SCORES, 0.0),
        **scores,
    }


def write(path, texts, mentions=(), titles=None):
    """A chunk store of one chunk per document, with one token per chunk, and these mentions."""
    count = len(texts)
    ids = [f"d{i}" for i in range(count)]
    zeros, ones = [0] * count, [1] * count
    write_store(
        path,
        tokens=np.zeros(count, dtype=np.uint32),
        chunks=pa.table(
            {
                "chunk_id": pa.array(range(count), pa.int64()),
                "token_start": pa.array(range(count), pa.int64()),
                "length": pa.array(ones, pa.int32()),
                "bucket": pa.array(ones, pa.int32()),
            }
        ),
        segments=pa.table(
            {
                "chunk_id": pa.array(range(count), pa.int64()),
                "doc_id": pa.array(ids, pa.string()),
                "chunk_token_start": pa.array(zeros, pa.int32()),
                "chunk_token_end": pa.array(ones, pa.int32()),
                "doc_token_start": pa.array(zeros, pa.int64()),
                "char_start": pa.array(zeros, pa.int64()),
                "char_end": pa.array([len(text) for text in texts], pa.int64()),
            }
        ),
        documents=pa.table(
            {
                "doc_id": pa.array(ids, pa.string()),
                "title": pa.array(titles or [None] * count, pa.string()),
                "source": pa.nulls(count, pa.string()),
                "url": pa.nulls(count, pa.string()),
                "text": pa.array(texts, pa.string()),
            }
        ),
        mentions=mention_table(mentions, texts),
        tokenizer_json="{}",
        meta={"tokenizer": {"pad_id": 1, "eos_id": 2, "vocab_size": 3}},
    )
    return open_store(path)


def mention_table(mentions, texts):
    rows = sorted(mentions, key=lambda row: (row["chunk_id"], row["char_start"], row["char_end"]))
    surfaces = [
        row["surface"] or texts[row["chunk_id"]][row["char_start"] : row["char_end"]]
        if texts
        else row["surface"]
        for row in rows
    ]

    def column(name, kind):
        return pa.array([row[name] for row in rows], kind)

    starts, ends = column("char_start", pa.int64()), column("char_end", pa.int64())
    return pa.table(
        {
            "chunk_id": column("chunk_id", pa.int64()),
            "token_start": pa.array([0] * len(rows), pa.int32()),
            "token_end": pa.array([1] * len(rows), pa.int32()),
            "char_start": starts,
            "char_end": ends,
            "doc_id": pa.array([f"d{row['chunk_id']}" for row in rows], pa.string()),
            "doc_char_start": starts,
            "doc_char_end": ends,
            "surface": pa.array(surfaces, pa.string()),
            "entity": column("entity", pa.string()),
            "name": column("name", pa.string()),
            **{score: column(score, pa.float32()) for score in SCORES},
            "cluster_id": pa.nulls(len(rows), pa.int32()),
        }
    )


@dataclass
class BruteForce:
    """Answers by reading every mention and every text in Python loops."""

    store: ChunkStore

    def __post_init__(self):
        self.rows = self.store.mention_table.to_pylist()
        self.texts = [self.store.chunk_text(i) for i in range(self.store.num_chunks)]

    def search(self, query):
        """Total, and (chunk, score, mentions, phrase spans) of the hits in order."""
        scores = self.scores(query.where)
        order = sorted(scores, key=lambda chunk: (-scores[chunk], chunk))[: query.limit]
        return len(scores), [(chunk, scores[chunk], *self.places(query.where, chunk)) for chunk in order]

    def scores(self, where):
        """Chunk -> score, for the chunks that fulfil a condition."""
        if isinstance(where, Entity):
            found = {}
            for row in self.rows:
                if row["entity"] == where.entity and passes(row, where.thresholds):
                    found[row["chunk_id"]] = max(found.get(row["chunk_id"], 0.0), row["score"])
            return found
        if isinstance(where, Phrase):
            return {chunk: 0.0 for chunk, text in enumerate(self.texts) if occurrences(text, where)}
        if isinstance(where, Not):
            unwanted = self.scores(where.part)
            return {chunk: 0.0 for chunk in range(self.store.num_chunks) if chunk not in unwanted}
        parts = [self.scores(part) for part in where.parts]
        if isinstance(where, All):
            common = set.intersection(*map(set, parts))
            return {chunk: float(np.float32(sum(part[chunk] for part in parts))) for chunk in common}
        assert isinstance(where, AnyOf)
        return {chunk: max(part[chunk] for part in parts if chunk in part) for chunk in set().union(*parts)}

    def places(self, where, chunk):
        """The mentions and spans in a chunk that a hit must show."""
        if isinstance(where, Entity):
            rows = [
                as_mention(i, row)
                for i, row in enumerate(self.rows)
                if row["chunk_id"] == chunk
                and row["entity"] == where.entity
                and passes(row, where.thresholds)
            ]
            return tuple(sorted(rows)), ()
        if isinstance(where, Phrase):
            return (), tuple(occurrences(self.texts[chunk], where))
        if isinstance(where, Not):
            return (), ()
        parts = [self.places(part, chunk) for part in where.parts]
        mentions, spans = (set().union(*column) for column in zip(*parts, strict=True))
        return tuple(sorted(mentions)), tuple(sorted(spans))

    @staticmethod
    def passes(row, thresholds):
        return passes(row, thresholds)

    @staticmethod
    def as_mention(number, row):
        return as_mention(number, row)


def passes(row, thresholds):
    return any(np.float32(row[source]) >= np.float32(least) for source, least in thresholds.active().items())


def as_mention(number, row):
    return Mention(
        row["char_start"], row["char_end"], row["entity"], *(row[score] for score in SCORES), row=number
    )


def occurrences(text, phrase):
    """Spans of a phrase in an ASCII text: words, then anything that is no word between them."""
    pattern = r"\W+".join(map(re.escape, words(phrase.text)))
    flags = 0 if phrase.case_sensitive else re.IGNORECASE
    return [match.span(1) for match in re.finditer(rf"(?<![\w'])(?=({pattern})(?![\w']))", text, flags)]


@pytest.fixture
def make_store(tmp_path):
    """Write a chunk store: texts, mention rows, titles."""
    numbers = iter(range(1000))
    return lambda texts, mentions=(), titles=None: write(
        tmp_path / f"store{next(numbers)}", texts, mentions, titles
    )


@pytest.fixture
def make_index(make_store):
    """Write a chunk store and open its index."""

    def make(texts, mentions=(), titles=None):
        store = make_store(texts, mentions, titles)
        path = Path(f"{store.path}-index")
        build_index(store.path, path)
        return open_index(path)

    return make


@pytest.fixture(scope="session")
def write_store_of():
    """Write a chunk store to a path: texts, mention rows, titles."""
    return write


@pytest.fixture(scope="session")
def row():
    """Make a row of chunk mentions."""
    return mention


@pytest.fixture(scope="session")
def build_pair():
    """An index in a folder, and the slow twin that reads its store."""

    def build(folder, texts, mentions):
        store = write(folder / "store", texts, mentions)
        build_index(store.path, folder / "index")
        return open_index(folder / "index"), BruteForce(store)

    return build


@pytest.fixture
def run(monkeypatch, capsys):
    """Run a command as its user does; gives exit code, stdout and stderr."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["entity-index", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return stop.value.code or 0, *capsys.readouterr()

    return run


# A real Elasticsearch server, by tools/elasticsearch.py of the workspace, or the file ELASTICSEARCH_TOOL.


def find_elasticsearch_tool():
    if "ELASTICSEARCH_TOOL" in os.environ:
        return Path(os.environ["ELASTICSEARCH_TOOL"])
    places = (folder / "tools" / "elasticsearch.py" for folder in Path(__file__).parents)
    return next((place for place in places if place.is_file()), None)


def needed(reason):
    """A user's machine may lack it: skip. Where all checks run, it must be there."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@dataclass
class Cluster:
    """A cluster of its own folder, driven by the tool."""

    tool: Path
    folder: Path

    def start(self, *options):
        """Bring up what is down; the addresses of its nodes."""
        command = [sys.executable, self.tool, "start", "--folder", self.folder, "--heap", "512m", *options]
        done = subprocess.run(command, capture_output=True, encoding="utf-8")
        if done.returncode == 3:
            needed(done.stderr.strip())
        assert done.returncode == 0, done.stderr
        return done.stdout.split()

    def kill(self, node=1):
        """End a node as a power cut does."""
        number = (self.folder / f"node-{node}" / "pid").read_text(encoding="utf-8").strip()
        os.kill(int(number), signal.SIGKILL)
        arguments = ["ps", "-ww", "-o", "args=", "-p", number]
        while b"org.elasticsearch" in subprocess.run(arguments, stdout=subprocess.PIPE).stdout:
            pass

    def remove(self):
        """Stop it and remove its data."""
        subprocess.run([sys.executable, self.tool, "stop", "--delete", "--folder", self.folder], check=True)


@contextmanager
def cluster_maker():
    """Describes clusters, each with a folder of its own; `start` brings one up, all go at the end."""
    tool = find_elasticsearch_tool()
    if tool is None:
        needed("there is no tools/elasticsearch.py above the tests, and ELASTICSEARCH_TOOL names none")
    clusters = []
    with tempfile.TemporaryDirectory(prefix="entity-index-", dir="/var/tmp") as folder:
        Path(folder).chmod(0o755)  # the server's user must come in

        def make():
            clusters.append(Cluster(tool, Path(folder) / f"cluster-{len(clusters)}"))
            return clusters[-1]

        try:
            yield make
        finally:
            for cluster in clusters:
                cluster.remove()


@pytest.fixture(scope="module")
def make_cluster():
    """Describe clusters of the tests of a file: what they start is gone before the next file's tests."""
    with cluster_maker() as make:
        yield make


@pytest.fixture(scope="session")
def elasticsearch_url():
    """The address of a server that all tests of a session share; use index names of your own.

    The variable ENTITY_INDEX_TEST_SERVER names one that runs already.
    """
    if "ENTITY_INDEX_TEST_SERVER" in os.environ:
        yield os.environ["ENTITY_INDEX_TEST_SERVER"]
        return
    with cluster_maker() as make:
        (url,) = make().start()
        yield url


# An index on a server in LMEnt's layout, written with raw requests


KEYWORD_TOO = {"type": "text", "fields": {"raw": {"type": "keyword"}}}
FLOATS = {name: {"type": "float"} for name in ("hyperlinks", "entity_linking", "coref", "coref_cluster")}
CANDIDATES = {
    "qid": {"type": "keyword"},
    "name": KEYWORD_TOO,
    "aggregated_score": {"type": "float"},
    "scores_by_source": {"type": "object", "properties": FLOATS},
}
MENTIONS = {
    "char_start": {"type": "integer"},
    "char_end": {"type": "integer"},
    "text_mention": KEYWORD_TOO,
    "candidates": {"type": "nested", "properties": CANDIDATES},
}
LMENT_MAPPING = {
    "dynamic": False,
    "properties": {
        **{name: {"type": "integer"} for name in ("chunk_id", "article_id", "start", "end")},
        **{name: {"type": "text"} for name in ("title", "metadata_source", "text")},
        "entities": {"type": "nested", "properties": MENTIONS},
    },
}
LMENT_SETTINGS = {"number_of_shards": 1, "number_of_replicas": 0, "mapping.nested_objects.limit": 100_000_000}
CASED_ANALYZER = {
    "analysis": {"analyzer": {"default": {"type": "custom", "tokenizer": "standard", "filter": []}}}
}


def ask(url, method="GET", body=None):
    """One request, without our client."""
    content = body.encode(errors="surrogatepass") if isinstance(body, str) else json.dumps(body).encode()
    kind = "application/x-ndjson" if isinstance(body, str) else "application/json"
    request = urllib.request.Request(
        url, content if body is not None else None, {"Content-Type": kind}, method=method
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def write_lment(url, name, documents):
    """Both of LMEnt's indices under this name."""
    lines = "".join(
        json.dumps({"index": {"_id": str(document["chunk_id"])}}) + "\n" + json.dumps(document) + "\n"
        for document in documents
    )
    for index, analysis in ((name, {}), (name + "_case_sensitive", CASED_ANALYZER)):
        ask(f"{url}/{index}", "PUT", {"settings": {**LMENT_SETTINGS, **analysis}, "mappings": LMENT_MAPPING})
        if lines:
            assert not ask(f"{url}/{index}/_bulk?refresh=true", "POST", lines)["errors"]


def lment_documents(texts, rows, titles=None):
    """Documents as LMEnt has them, one mention a span; and, to compare everything, what ours have besides."""
    documents = []
    for chunk_id, text in enumerate(texts):
        of_chunk = [
            (number, row)
            for number, row in enumerate(rows)
            if row["chunk_id"] == chunk_id and row["entity"] is not None
        ]
        spans = itertools.groupby(
            of_chunk, lambda pair: (pair[1]["char_start"], pair[1]["char_end"], pair[1]["surface"])
        )
        entities = [
            {
                "char_start": start,
                "char_end": end,
                "text_mention": surface,
                "candidates": [candidate(*pair) for pair in pairs],
            }
            for (start, end, surface), pairs in spans
        ]
        title = titles[chunk_id] if titles else None
        document = {"chunk_id": chunk_id, "article_id": chunk_id, "start": 0, "end": 1, "title": title}
        documents.append({**document, "doc_id": f"d{chunk_id}", "text": text, "entities": entities})
    return documents


def candidate(number, row):
    sources = zip(FLOATS, ("hyperlink", "entity_linking", "coref", "coref_cluster"), strict=True)
    scores = {theirs: row[ours] for theirs, ours in sources}
    return {
        "qid": row["entity"],
        "name": row["name"],
        "aggregated_score": row["score"],
        "scores_by_source": scores,
        "row": number,
    }


@pytest.fixture(scope="session")
def elastic_pair(elasticsearch_url):
    """The same corpus in the embedded index and on a server."""
    numbers = itertools.count()

    def build(folder, texts, mentions, titles=None):
        store = write(folder / "store", texts, mentions, titles)
        build_index(store.path, folder / "index")
        name = f"pair{next(numbers)}"
        write_lment(elasticsearch_url, name, lment_documents(texts, store.mention_table.to_pylist(), titles))
        return open_index(folder / "index"), open_backend(f"{elasticsearch_url}/{name}")

    return build


@pytest.fixture(scope="session", name="lment_documents")
def give_lment_documents():
    """Texts, rows of mentions and titles as documents."""
    return lment_documents


@pytest.fixture(scope="session")
def mention_rows():
    """Mention rows as a store has them."""
    return lambda mentions, texts: mention_table(mentions, texts).to_pylist()


@pytest.fixture(scope="session")
def raw_requests():
    """Requests without our client: `ask`, `write_lment`."""
    return SimpleNamespace(ask=ask, write_lment=write_lment)

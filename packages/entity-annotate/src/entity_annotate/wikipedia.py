"""From a dump to documents and mentions: clean, learn names, link, resolve, merge; each step unit by unit.

Memory holds one unit (about 16 MB of wikitext), the redirects and the lexicon. Every unit is kept in
OUT/units until all is written, so a killed run goes on where it stopped and ends with the same bytes.
"""

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from entity_annotate.coref import SimpleCoref
from entity_annotate.dump import Dump
from entity_annotate.lexicon import Lexicon, count_occurrences, redirect_names
from entity_annotate.linker import LexiconLinker
from entity_annotate.merge import SOURCES, merge_evidence
from entity_annotate.pages import (
    COUNTS,
    PAGES_VERSION,
    clean_articles,
    documents_of,
    hash_pages,
    quarantined,
    sort_pages,
    split_pages,
)
from entity_annotate.pages import PAGES as PAGES_SCHEMA
from entity_annotate.records import Cluster, CorefResolver, Document, Failure, Linker, Mention, misplaced
from entity_annotate.tables import (
    DOCUMENTS,
    ENTITIES,
    MENTIONS,
    QUARANTINE,
    write_batches,
    write_json,
    write_rows,
)
from entity_annotate.titles import Redirects, entity_of
from entity_annotate.units import Units, key_of

ANNOTATION_VERSION = 1  # raise it whenever mentions change: unfinished runs then start again
UNIT_CHARACTERS = 16_000_000
Progress = Callable[[str, int], None]
_OCCURRENCES = pa.schema([("surface", pa.string()), ("count", pa.int64())])
_THRESHOLDS = {"hyperlink": 1.0, "entity_linking": 0.6, "coref": 0.6, "coref_cluster": 0.6}
OUTPUTS = ("documents.parquet", "mentions.parquet", "entities.parquet", "quarantine.parquet", "counts.json")


@dataclass
class Corpus:
    """The first stage's result: where the units are, and the tables that tell which page a link means."""

    source: str
    units: Units
    keys: list[str] = field(default_factory=list)
    redirects: dict[str, str] = field(default_factory=dict)
    disambiguations: set[str] = field(default_factory=set)
    quarantine: list[dict[str, Any]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    error: str | None = None
    qids: Mapping[str, str] = field(default_factory=dict)

    def documents(self, number: int) -> Iterator[Document]:
        """Yield a unit's documents, with the entity of each link and of the document itself."""
        redirects = Redirects(self.redirects)
        for doc in documents_of(self.units.read(number)):
            links = [link._replace(entity=self._entity(redirects.resolve(link.target))) for link in doc.links]
            yield replace(doc, links=links, entity=entity_of(doc.title or "", self.qids), source=self.source)

    def _entity(self, page: str) -> str | None:
        return None if page in self.disambiguations else entity_of(page, self.qids)


def annotate_wikipedia(
    dump_path: Path,
    out: Path,
    *,
    qids: Mapping[str, str] | None = None,
    unit_characters: int = UNIT_CHARACTERS,
    overwrite: bool = False,
    on_unit: Progress = lambda stage, number: None,
) -> dict[str, Any]:
    """Annotate a dump and return the counts that are also written to OUT/counts.json.

    An unfinished result is continued, a finished one of the same inputs is left as it is, and one of
    other inputs is refused unless `overwrite` is set.
    """
    if not dump_path.is_file():
        raise FileNotFoundError(f"there is no dump {str(dump_path)!r}")
    inputs = _hash_inputs(dump_path, qids or {}, unit_characters)
    counts = None if overwrite else _finished(out, inputs)
    if counts is None:
        _prepare(out, overwrite=overwrite)
        corpus = read_corpus(dump_path, out / "units", unit_characters=unit_characters, on_unit=on_unit)
        corpus.qids = qids or {}
        lexicon, key = learn_lexicon(corpus, on_unit)
        linker = LexiconLinker(lexicon, fingerprint=key)
        names = {qid: title for title, qid in reversed(list(corpus.qids.items()))}
        mentions = annotate_units(corpus, linker, SimpleCoref(lexicon), names, on_unit)
        counts = _write_outputs(out, corpus, mentions, lexicon, names) | {"inputs_sha256": inputs}
        write_json(out / "counts.json", counts)
    shutil.rmtree(out / "units", ignore_errors=True)
    return counts


def _hash_inputs(dump_path: Path, qids: Mapping[str, str], unit_characters: int) -> str:
    with dump_path.open("rb") as dump:
        digest = hashlib.file_digest(dump, "sha256").hexdigest()
    versions = (PAGES_VERSION, ANNOTATION_VERSION)
    return key_of(versions, dump_path.name, digest, sorted(qids.items()), unit_characters)


def _finished(out: Path, inputs: str) -> dict[str, Any] | None:
    """Return the counts of a finished result of the same inputs, or None where there is no finished one."""
    if not (out / "counts.json").exists():
        return None
    counts: dict[str, Any] = json.loads((out / "counts.json").read_text(encoding="utf-8"))
    if counts.get("inputs_sha256") != inputs:
        raise FileExistsError(
            f"{str(out)!r} already holds an annotation of other inputs: choose another folder, or --overwrite"
        )
    return counts


def _prepare(out: Path, *, overwrite: bool) -> None:
    if out.exists() and not out.is_dir():
        raise FileExistsError(f"{str(out)!r} is a file, expected a folder")
    found = [name for name in reversed(OUTPUTS) if (out / name).exists()]
    if overwrite:
        for name in found:
            (out / name).unlink()
    elif found and not (out / "units").is_dir():
        raise FileExistsError(
            f"{str(out)!r} holds a {found[0]} that is not ours: choose another folder, or --overwrite"
        )


def read_corpus(dump_path: Path, folder: Path, *, unit_characters: int, on_unit: Progress) -> Corpus:
    """Read and clean a dump into units; those already there with the same content are not cleaned again."""
    dump = Dump(dump_path)
    corpus = Corpus(dump_path.name, Units(folder, "pages"))
    seen: set[str] = set()
    for number, pages in enumerate(split_pages(dump, unit_characters)):
        key = hash_pages(pages, dump)
        unit, articles = sort_pages(pages, dump, seen)
        record = corpus.units.record(number, key)
        if record is None:
            clean_articles(unit, articles, dump)
            record = unit.record()
            corpus.units.finish(number, key, unit.rows, PAGES_SCHEMA, record)
        corpus.keys.append(key)
        corpus.redirects.update(record["redirects"])
        corpus.disambiguations.update(record["disambiguations"])
        corpus.quarantine += record["quarantine"]
        corpus.counts.update(record["counts"])
        on_unit("pages", number)
    corpus.error = dump.error
    if not corpus.keys:
        reason = dump.error or "it has no <page>"
        raise ValueError(f"{str(dump_path)!r} is no MediaWiki XML dump: {reason}")
    if dump.error is not None:
        corpus.quarantine.append(quarantined(None, "read", "damaged_dump", dump.error, None))
    return corpus


def learn_lexicon(corpus: Corpus, on_unit: Progress) -> tuple[Lexicon, str]:
    """Learn the names of the corpus; returns the lexicon and a hash of everything it was learned from."""
    lexicon = Lexicon()
    for number in range(len(corpus.keys)):
        for doc in corpus.documents(number):
            lexicon.add_document(doc)
    redirects = Redirects(corpus.redirects)
    for name, title in redirect_names(corpus.redirects):
        page = redirects.resolve(title)
        if page not in corpus.disambiguations:
            lexicon.add_name(name, entity_of(page, corpus.qids))
    qids_key = key_of(sorted(corpus.qids.items()))
    key = key_of(ANNOTATION_VERSION, corpus.source, corpus.keys, corpus.error, qids_key)
    matcher = lexicon.counting_matcher()
    units = Units(corpus.units.folder, "names")
    for number in range(len(corpus.keys)):
        if units.record(number, key) is None:
            counts = count_occurrences(corpus.documents(number), matcher)
            rows = [{"surface": surface, "count": count} for surface, count in sorted(counts.items())]
            units.finish(number, key, rows, _OCCURRENCES, {})
        table = units.read(number)
        lexicon.occurrences.update(
            dict(zip(table["surface"].to_pylist(), table["count"].to_pylist(), strict=True))
        )
        on_unit("names", number)
    return lexicon, key


def annotate_units(
    corpus: Corpus, linker: Linker, resolver: CorefResolver, names: Mapping[str, str], on_unit: Progress
) -> Units:
    """Link, resolve and merge every unit; failures of single documents go to the corpus' quarantine."""
    units = Units(corpus.units.folder, "mentions")
    for number, page_key in enumerate(corpus.keys):
        key = key_of(page_key, linker.fingerprint, resolver.fingerprint)
        record = units.record(number, key)
        if record is None:
            docs = list(corpus.documents(number))
            rows, record = annotate_documents(docs, linker, resolver, names)
            units.finish(number, key, rows, MENTIONS, record)
        corpus.quarantine += record["quarantine"]
        corpus.counts.update(record["counts"])
        on_unit("mentions", number)
    return units


def annotate_documents(
    docs: Sequence[Document], linker: Linker, resolver: CorefResolver, names: Mapping[str, str] | None = None
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return the rows of the mentions table for the documents, and a record of counts and quarantined "
    "documents."""
    quarantine: list[dict[str, Any]] = []
    linked: list[Sequence[Mention]] = []
    for doc, mentions in zip(docs, linker.link(docs), strict=True):
        failure = (
            mentions
            if isinstance(mentions, Failure)
            else misplaced(doc, [mention[:2] for mention in mentions])
        )
        if failure is not None:
            quarantine.append(quarantined(doc.id, "link", failure.kind, failure.message, doc.text))
        linked.append([] if isinstance(mentions, Failure) or failure is not None else mentions)
    resolved: list[Sequence[Cluster]] = []
    for doc, clusters in zip(docs, resolver.resolve(docs, linked), strict=True):
        failure = (
            clusters if isinstance(clusters, Failure) else misplaced(doc, [s for c in clusters for s in c])
        )
        if failure is not None:
            quarantine.append(quarantined(doc.id, "coref", failure.kind, failure.message, doc.text))
        resolved.append([] if isinstance(clusters, Failure) or failure is not None else clusters)
    rows = [
        row
        for doc, mentions, clusters in zip(docs, linked, resolved, strict=True)
        for row in mention_rows(doc, mentions, clusters, names or {})
    ]
    return rows, {"quarantine": quarantine, "counts": _count_sources(rows)}


def mention_rows(
    doc: Document, linked: Sequence[Mention], clusters: Sequence[Cluster], names: Mapping[str, str]
) -> Iterator[dict[str, Any]]:
    """Merge one document's evidence into rows of the mentions table."""
    links = [Mention(link.char_start, link.char_end, link.entity, 1.0) for link in doc.links if link.entity]
    for row in merge_evidence(doc.text, links, linked, clusters):
        yield {
            "doc_id": doc.id,
            "text_sha256": doc.text_sha256,
            "char_start": row.char_start,
            "char_end": row.char_end,
            "surface": doc.text[row.char_start : row.char_end],
            "entity": row.entity,
            "name": name_of(row.entity, names),
            "score": row.score,
            **{source: getattr(row, source) for source in SOURCES},
            "cluster_id": row.cluster_id,
        }


def name_of(entity: str, names: Mapping[str, str]) -> str | None:
    """Return the title an entity goes by, if known."""
    if entity.startswith("title:"):
        return entity.removeprefix("title:").replace("_", " ")
    return names.get(entity)


def _count_sources(rows: Sequence[dict[str, Any]]) -> dict[str, int]:
    counts = {
        "mention_rows": len(rows),
        "mention_spans": len({(r["doc_id"], r["char_start"], r["char_end"]) for r in rows}),
    }
    for source, threshold in _THRESHOLDS.items():
        counts[f"mentions_{source}"] = sum(row[source] >= threshold for row in rows)
    return counts


def _write_outputs(
    out: Path, corpus: Corpus, mentions: Units, lexicon: Lexicon, names: Mapping[str, str]
) -> dict[str, Any]:
    numbers = range(len(corpus.keys))
    write_batches(
        out / "documents.parquet",
        DOCUMENTS,
        ([_document_row(d) for d in corpus.documents(n)] for n in numbers),
    )
    write_batches(out / "mentions.parquet", MENTIONS, (mentions.read(n) for n in numbers))
    entities = {entity for n in numbers for entity in mentions.read(n)["entity"].unique().to_pylist()}
    aliases = lexicon.aliases()
    rows = []
    for entity in sorted(entities):
        name = name_of(entity, names)
        rows.append(
            {"entity": entity, "name": name, "aliases": [a for a in aliases.get(entity, []) if a != name]}
        )
    write_rows(out / "entities.parquet", ENTITIES, rows)
    write_rows(out / "quarantine.parquet", QUARANTINE, corpus.quarantine)
    kinds = Counter(f"{row['stage']}: {row['kind']}" for row in corpus.quarantine)
    keys = [*COUNTS, "mention_rows", "mention_spans", *(f"mentions_{source}" for source in SOURCES)]
    return {
        "format": "annotation-counts",
        "version": 1,
        "source": corpus.source,
        "content_sha256": hashlib.sha256("".join(corpus.keys).encode()).hexdigest(),
        "dump_error": corpus.error,
        "counts": {name: corpus.counts[name] for name in keys} | {"entities": len(entities)},
        "quarantined": dict(sorted(kinds.items())),
    }


def _document_row(doc: Document) -> dict[str, Any]:
    links = [
        {"char_start": k.char_start, "char_end": k.char_end, "target": k.target, "entity": k.entity}
        for k in doc.links
    ]
    return {
        "id": doc.id,
        "title": doc.title,
        "source": doc.source,
        "url": doc.url,
        "text": doc.text,
        "links": links,
    }

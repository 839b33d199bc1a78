"""Texts with human gold, annotated by our own linker and coreference: wiki-fair, GUM's biographies."""

import csv
import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from entity_annotate import (
    DOCUMENTS,
    GOLD,
    MENTIONS,
    Document,
    Lexicon,
    LexiconLinker,
    Link,
    SimpleCoref,
    annotate_documents,
    count_occurrences,
    write_rows,
)

Gold = dict[str, Any]
WIKI_FAIR = "entity_linking/elevant-wiki-fair.jsonl"
GUM = "coreference/gum"
PRONOUNS = {
    *("he", "she", "it", "they", "him", "her", "them", "his", "hers", "its", "their", "theirs"),
    *("i", "me", "my", "who", "whom", "whose", "that", "which"),
}


def is_qid(entity: str) -> bool:
    """Whether this is a Wikidata id."""
    return entity[0] == "Q" and entity[1:].isdigit()


def gold_row(doc: Document, start: int, end: int, entity: str) -> Gold:
    """A gold mention."""
    surface = doc.text[start:end]
    kind = "pronoun" if surface.lower() in PRONOUNS else "name"
    place = {"doc_id": doc.id, "char_start": start, "char_end": end}
    return {**place, "entity": entity, "surface": surface, "kind": kind}


# wiki-fair: articles with their own links; the gold labels cover a part of each, and only that part is taken


def read_wiki_fair(path: Path) -> tuple[list[Document], list[Gold]]:
    """The labelled parts of the articles, and their gold mentions."""
    articles = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    qids = qids_of(articles)
    docs, gold = [], []
    for article in articles:
        low, high = article["evaluation_span"]
        links = [
            Link(start - low, end - low, title, entity=qids[title])
            for (start, end), title in article.get("hyperlinks", [])
            if low <= start < end <= high and title in qids  # of others gold could not tell
        ]
        names = [article["text"][start:end] for start, end in article.get("title_synonyms", [])]
        entity = qids.get(article["title"], "title:" + article["title"].replace(" ", "_"))
        text = article["text"][low:high]
        doc = Document(str(article["id"]), text, article["title"], links, entity, names)
        docs.append(doc)
        for label in article["labels"]:
            start, end = (place - low for place in label["span"])
            if is_qid(label["entity_id"]) and 0 <= start < end <= len(text):
                gold.append(gold_row(doc, start, end, label["entity_id"]))
    return docs, gold


def qids_of(articles: list[dict[str, Any]]) -> dict[str, str]:
    """The QID of each title, where a gold label on one of its links or names gives it."""
    qids: dict[str, str] = {}
    for article in articles:
        labels = {tuple(label["span"]): label["entity_id"] for label in article["labels"]}
        named = [(tuple(span), title) for span, title in article.get("hyperlinks", [])]
        named += [(tuple(span), article["title"]) for span in article.get("title_synonyms", [])]
        for span, title in named:
            if is_qid(labels.get(span, "?")):
                qids.setdefault(title, labels[span])
    return qids


# GUM: every mention has its article; the first name of each in a document becomes a link, as Wikipedia links


def read_gum(folder: Path) -> tuple[list[Document], list[Gold]]:
    """The biographies with one link an entity, and the gold mentions, pronouns included."""
    with (folder / "wiki_map.tab").open(encoding="utf-8", newline="") as file:
        rows = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        qids = {unquote(row[1]): row[2] for row in rows if len(row) > 2 and is_qid(row[2] or "?")}
    docs, gold = [], []
    for path in sorted((folder / "tsv").glob("*.tsv")):
        text, mentions = read_tsv(path)
        mentions = [(start, end, title) for start, end, title in mentions if title in qids]
        subject = Counter(title for _, _, title in mentions).most_common(1)[0][0]
        links = list(first_names(text, mentions, qids))
        doc = Document(path.stem, text, subject.replace("_", " "), links, qids[subject])
        docs.append(doc)
        gold += [gold_row(doc, start, end, qids[title]) for start, end, title in mentions]
    return docs, gold


def read_tsv(path: Path) -> tuple[str, list[tuple[int, int, str]]]:
    """The text of a WebAnno file and its mentions: from, to, title of the article."""
    tokens: list[tuple[int, str]] = []
    spans: dict[tuple[str, str], list[int]] = defaultdict(list)
    for line in path.read_text(encoding="utf-8").splitlines():
        cells = line.split("\t")
        if line.startswith("#") or len(cells) < 7:
            continue
        start, end = map(int, cells[1].split("-"))
        tokens.append((start, cells[2]))
        for word in filter(lambda word: word not in ("_", ""), cells[6].split("|")):
            title, _, number = word.partition("[")
            spans[unquote(title), number or cells[0]] += [start, end]
    text = ""
    for start, token in tokens:
        text = text.ljust(start) + token
    return text, sorted((min(places), max(places), title) for (title, _), places in spans.items())


def first_names(text: str, mentions: list[tuple[int, int, str]], qids: dict[str, str]) -> Iterator[Link]:
    """The first mention of each article that is a name."""
    seen: set[str] = set()
    taken = 0
    for start, end, title in mentions:
        surface = text[start:end]
        if title in seen or start < taken or not surface[0].isupper() or surface.lower() in PRONOUNS:
            continue
        seen.add(title)
        taken = end
        yield Link(start, end, title, entity=qids[title])


# Both


def write_corpus(docs: list[Document], gold: list[Gold], folder: Path) -> None:
    """Annotate documents with what their own links teach, and write them with mentions and gold."""
    lexicon = Lexicon()
    for doc in docs:
        lexicon.add_document(doc)
    lexicon.occurrences.update(count_occurrences(docs, lexicon.counting_matcher()))
    names = {link.entity: link.target.replace("_", " ") for doc in docs for link in doc.links if link.entity}
    names |= {doc.entity: doc.title for doc in docs if doc.entity and doc.title}
    rows, record = annotate_documents(docs, LexiconLinker(lexicon), SimpleCoref(lexicon), names)
    assert not record["quarantine"], record
    folder.mkdir(parents=True, exist_ok=True)
    write_rows(folder / "documents.parquet", DOCUMENTS, [document_row(doc) for doc in docs])
    write_rows(folder / "mentions.parquet", MENTIONS, rows)
    write_rows(folder / "gold.parquet", GOLD, gold)


def document_row(doc: Document) -> dict[str, Any]:
    """A document as its table has it."""
    links = [
        {"char_start": k.char_start, "char_end": k.char_end, "target": k.target, "entity": k.entity}
        for k in doc.links
    ]
    return {"id": doc.id, "title": doc.title, "source": None, "url": None, "text": doc.text, "links": links}

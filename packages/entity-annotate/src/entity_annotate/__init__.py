"""Who is mentioned where: entity mentions with exact offsets, from Wikipedia dumps or any documents."""

from entity_annotate.coref import SimpleCoref
from entity_annotate.dump import Dump, Page
from entity_annotate.evaluate import Evaluation, Score, evaluate_mentions
from entity_annotate.lexicon import Lexicon, count_occurrences
from entity_annotate.linker import LexiconLinker
from entity_annotate.matcher import Matcher
from entity_annotate.merge import Evidence, merge_evidence
from entity_annotate.records import Cluster, CorefResolver, Document, Failure, Linker, Mention, Span
from entity_annotate.tables import (
    DOCUMENTS,
    ENTITIES,
    GOLD,
    MENTIONS,
    QUARANTINE,
    FormatError,
    read_table,
    write_rows,
)
from entity_annotate.titles import Redirects, entity_of, is_disambiguation, normalize_title, read_qids
from entity_annotate.wikipedia import annotate_documents, annotate_wikipedia
from entity_annotate.wikitext import CleanText, Link, clean, clean_page

__all__ = [
    "DOCUMENTS",
    "ENTITIES",
    "GOLD",
    "MENTIONS",
    "QUARANTINE",
    "CleanText",
    "Cluster",
    "CorefResolver",
    "Document",
    "Dump",
    "Evaluation",
    "Evidence",
    "Failure",
    "FormatError",
    "Lexicon",
    "LexiconLinker",
    "Link",
    "Linker",
    "Matcher",
    "Mention",
    "Page",
    "Redirects",
    "Score",
    "SimpleCoref",
    "Span",
    "annotate_documents",
    "annotate_wikipedia",
    "clean",
    "clean_page",
    "count_occurrences",
    "entity_of",
    "evaluate_mentions",
    "is_disambiguation",
    "merge_evidence",
    "normalize_title",
    "read_qids",
    "read_table",
    "write_rows",
]

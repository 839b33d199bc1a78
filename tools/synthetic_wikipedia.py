"""Write a synthetic encyclopedia as a real MediaWiki dump, with the truth about it beside it.

    uv run tools/synthetic_wikipedia.py OUT [--facts 1000] [--seed 0]

OUT/dump.xml.bz2          articles on people, places, organisations and works, year pages that restate their
                          facts, redirects, disambiguation pages, and all the markup a reader has to strip
OUT/gold_mentions.parquet every mention with its place in the clean text (links, names, pronouns, ...)
OUT/probes.parquet        one cloze probe a fact: accepted aliases, distractors of its type, 32 candidates,
                          and `num_statements`: in how many sentences the dump states the fact

How often a fact is stated follows a power law (p(n) ~ 1/n for 1 <= n <= 64); who is written about does too.
Each sentence is one of several paraphrases of its relation. Takes five seconds for 1,000 facts.
"""

import argparse
import bz2
import hashlib
import os
import re
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

MOST_STATEMENTS = 64
MOST_CANDIDATES = 32

WORDS = {
    kind: words.split()
    for kind, words in tomllib.loads(
        Path(__file__).with_name("synthetic_words.toml").read_text(encoding="utf-8")
    ).items()
}
OBJECT_SECTIONS = {"person": "Works", "place": "People and trade", "organisation": "Staff"}
LANDSCAPES = (
    "on a low hill above the sea",
    "in a wide valley",
    "at the edge of a pine forest",
    "beside a shallow lake",
)


@dataclass(frozen=True)
class Entity:
    """Something with an article: its title, the names it goes by, and how to refer back to it."""

    title: str
    type: str  # person, place, organisation, work
    name: str
    aliases: tuple[str, ...] = ()
    short: str | None = None  # a person's surname
    pronouns: tuple[str, str] = ("it", "its")
    trade: str = ""  # a person's occupation, a work's genre
    year: int = 1900

    @property
    def id(self) -> str:
        """The entity's id in every file."""
        return "title:" + self.title.replace(" ", "_")


@dataclass(frozen=True)
class Relation:
    """A kind of fact: what it links, the prompt that asks for it, its paraphrases ({S}ubject, {O}bject)."""

    name: str
    subject_type: str
    object_type: str
    prompt: str
    paraphrases: tuple[str, ...]
    own: tuple[str, ...]
    """Paraphrases for the subject's own article; {P} is a pronoun, {h} a possessive one, {D} "The novel"."""


RELATIONS = (
    Relation(
        "birthplace",
        "person",
        "place",
        "{} was born in",
        (
            "{S} was born in {O}.",
            "{S} was born in {O} in {Y}.",
            "{S}, born in {O}, was a {T}.",
            "{S} was a {T}; {p} was born in {O}.",
            "{S}'s place of birth was {O}.",
            "{O} was the birthplace of {S}.",
        ),
        ("{P} was born in {O}.", "{N} was born in {O} and remembered it well.", "{H} birthplace was {O}."),
    ),
    Relation(
        "employer",
        "person",
        "organisation",
        "{} worked for",
        (
            "{S} worked for {O}.",
            "{S} worked for {O} as a {T}.",
            "{S}, who worked for {O}, was a {T}.",
            "{S} spent {h} career with {O}.",
            "Among the staff of {O} was {S}.",
        ),
        ("{P} worked for {O}.", "For many years {p} worked for {O}.", "{N} worked for {O} until {Y}."),
    ),
    Relation(
        "author",
        "work",
        "person",
        "{} was written by",
        (
            "{S} was written by {O}.",
            "{S} was written by {O} in {Y}.",
            "{S}, a {T} written by {O}, sold well.",
            "{S} is a {T} by {O}.",
            "{O} is the author of {S}.",
        ),
        ("{P} was written by {O}.", "{D} was written by {O}.", "{H} author is {O}."),
    ),
    Relation(
        "headquarters",
        "organisation",
        "place",
        "{} is based in",
        (
            "{S} is based in {O}.",
            "{S} has been based in {O} since {Y}.",
            "{S}, based in {O}, is well known.",
            "{S}'s head office is in {O}.",
            "{O} is home to {S}.",
        ),
        ("{P} is based in {O}.", "{H} head office is in {O}.", "{N} is based in {O}."),
    ),
)


@dataclass(frozen=True)
class Fact:
    """One fact and how many sentences state it."""

    relation: Relation
    subject: Entity
    object: Entity
    num_statements: int

    @property
    def id(self) -> str:
        """Readable and stable for a seed: relation and subject."""
        return f"{self.relation.name}:{self.subject.title.replace(' ', '_')}"


@dataclass
class Article:
    """A page under construction: its wikitext and, in step with it, the clean text and the gold mentions."""

    title: str
    topic: Entity | None = None
    wikitext: str = ""
    text: str = ""
    gold: list[tuple[int, int, str, str, str]] = field(default_factory=list)
    introduced: dict[str, Entity] = field(default_factory=dict)

    def write(self, words: str) -> None:
        """Add plain words, the same in both."""
        self.wikitext += words
        self.text += words

    def hide(self, markup: str) -> None:
        """Add markup that leaves no trace in the clean text."""
        self.wikitext += markup

    def mention(self, entity: Entity, surface: str, kind: str, *, markup: str | None = None) -> None:
        """Add a mention: its surface in the clean text, `markup` (or the surface) in the wikitext."""
        self.gold.append((len(self.text), len(self.text) + len(surface), entity.id, surface, kind))
        self.text += surface
        self.wikitext += markup if markup is not None else surface
        self.introduced.setdefault(entity.id, entity)

    def block(self, heading: str | None = None) -> None:
        """Begin a new paragraph, or a section with its heading."""
        if self.text:
            self.write("\n\n")
        if heading:
            self.wikitext += f"== {heading} ==\n"
            self.text += f"{heading}\n\n"


def power_law(rng: np.random.Generator, size: int) -> np.ndarray:
    """Whole numbers n from 1 to MOST_STATEMENTS with p(n) about 1/n, (size,)."""
    return np.floor(np.exp(rng.uniform(0, np.log(MOST_STATEMENTS + 1), size))).astype(int)


def distinct(rng: np.random.Generator, *parts: Sequence[str], pattern: str = "{} {}") -> Iterator[str]:
    """All combinations of the parts, in a random order."""
    shape = tuple(len(part) for part in parts)
    for flat in rng.permutation(int(np.prod(shape))):
        chosen = np.unravel_index(int(flat), shape)
        yield pattern.format(*(part[int(i)] for part, i in zip(parts, chosen, strict=True)))


def make_people(rng: np.random.Generator, count: int) -> list[Entity]:
    """People; about one in twenty shares the full name of another and is told apart in the title."""
    names = distinct(
        rng,
        WORDS["women"] + WORDS["men"],
        list(distinct(rng, WORDS["stems"], WORDS["surname_ends"], pattern="{}{}")),
    )
    people: list[Entity] = []
    for number in range(count):
        trade = WORDS["occupations"][int(rng.integers(len(WORDS["occupations"])))]
        namesake = people[-1] if number % 20 == 19 and people[-1].trade != trade else None
        name = namesake.name if namesake else next(names)
        given, surname = name.split()
        title = f"{name} ({trade})" if namesake else name
        aliases = (f"{given[0]}. {surname}",) if not namesake else ()
        pronouns = ("she", "her") if given in WORDS["women"] else ("he", "his")
        year = int(rng.integers(1800, 1960))
        people.append(Entity(title, "person", name, aliases, surname, pronouns, trade, year))
    return people


def make_entities(rng: np.random.Generator, count: int) -> dict[str, list[Entity]]:
    """Entities of all types; `count` people and fewer of the others."""
    places = distinct(rng, WORDS["stems"], WORDS["place_ends"], pattern="{}{}")
    organisations = distinct(rng, WORDS["qualities"], WORDS["trades"], WORDS["bodies"], pattern="{} {} {}")
    works = distinct(rng, WORDS["adjectives"], WORDS["nouns"], pattern="The {} {}")

    def year() -> int:
        return int(rng.integers(1800, 1960))

    def initials(name: str) -> str:
        return "".join(word[0] for word in name.split())

    return {
        "person": make_people(rng, count),
        "place": [
            Entity(name, "place", name, (f"Old {name}",), year=year()) for name in islice(places, count // 4)
        ],
        "organisation": [
            Entity(name, "organisation", name, (initials(name),), year=year())
            for name in islice(organisations, count // 4)
        ],
        "work": [
            Entity(
                name,
                "work",
                name,
                (name.removeprefix("The "),),
                trade=str(rng.choice(WORDS["genres"])),
                year=year(),
            )
            for name in islice(works, count // 2)
        ],
    }


def make_facts(rng: np.random.Generator, entities: dict[str, list[Entity]], count: int) -> list[Fact]:
    """About `count` facts, one a subject and relation; popular objects are the answer more often."""
    slots = [(relation, subject) for relation in RELATIONS for subject in entities[relation.subject_type]]
    chosen = sorted(rng.choice(len(slots), size=min(count, len(slots)), replace=False))
    facts = []
    for slot, num_statements in zip(chosen, power_law(rng, len(chosen)), strict=True):
        relation, subject = slots[slot]
        candidates = entities[relation.object_type]
        popularity = 1 / (10 + np.arange(len(candidates)))
        answer = candidates[int(rng.choice(len(candidates), p=popularity / popularity.sum()))]
        facts.append(Fact(relation, subject, answer, int(num_statements)))
    return facts


def mention(article: Article, entity: Entity, rng: np.random.Generator) -> None:
    """Mention an entity as an encyclopedia does: a link first, later the name, an alias or a surname."""
    first = entity.id not in article.introduced
    alias = entity.aliases[int(rng.integers(len(entity.aliases)))] if entity.aliases else entity.name
    draw = rng.random()
    if first and draw < 0.9:
        surface = alias if draw < 0.12 else entity.name
        label = "" if surface == entity.title else f"|{surface}"
        article.mention(entity, surface, "link", markup=f"[[{entity.title}{label}]]")
    elif not first and entity.short and draw < 0.3 and no_rival(article, entity):
        article.mention(entity, entity.short, "short")
    else:
        article.mention(entity, alias if draw < 0.45 and not first else entity.name, "name")


def no_rival(article: Article, entity: Entity) -> bool:
    """Whether nobody else of that surname was introduced in the article."""
    return all(other == entity or other.short != entity.short for other in article.introduced.values())


def state(article: Article, fact: Fact, pattern: str, rng: np.random.Generator) -> None:
    """Write one sentence that states a fact, following a paraphrase."""
    subject = fact.subject
    pronoun, possessive = subject.pronouns
    plain = {"T": subject.trade or "work", "Y": str(subject.year + 30 + int(rng.integers(20)))}
    pronouns = {"P": pronoun.capitalize(), "p": pronoun, "H": possessive.capitalize(), "h": possessive}
    for part in re.split(r"(\{[SONDTYPpHh]\})", pattern):
        letter = part[1] if part.startswith("{") else ""
        if letter == "S":
            mention(article, subject, rng)
        elif letter == "O":
            mention(article, fact.object, rng)
        elif letter == "N":
            article.mention(subject, subject.short or subject.name, "short" if subject.short else "name")
        elif letter == "D":
            article.mention(subject, f"The {subject.trade}", "description")
        elif letter in pronouns:
            article.mention(subject, pronouns[letter], "pronoun")
        else:
            article.write(plain.get(letter, part))


def reference(article: Article, rng: np.random.Generator) -> None:
    """Sometimes a footnote, a comment or a named reference behind a sentence."""
    number = int(rng.integers(1, 400))
    notes = (
        f"<ref>{{{{cite book |title=Annals |volume={number} |author=[[Somebody Else]]}}}}</ref>",
        f'<ref name="r{number}" />',
        f"<!-- checked, p. {number} -->",
        f"<ref>See {{{{harvnb|Annals|{number}}}}}, ''passim''.</ref>",
    )
    if rng.random() < 0.25:
        article.hide(notes[int(rng.integers(len(notes)))])


def begin_article(entity: Entity, rng: np.random.Generator) -> Article:
    """The head of an entity's article: hidden markup, then a sentence that introduces it in bold."""
    article = Article(entity.title, entity)
    name, year = entity.name, entity.year
    article.hide(f"{{{{Short description|A {entity.type}}}}}\n{{{{Infobox {entity.type}\n| name = {name}\n")
    article.hide(f"| years = {{{{start date|{year}}}}}\n| image = [[File:{name}.jpg|200px]]\n}}}}\n")
    if rng.random() < 0.3:
        article.hide(f"[[File:{name} 2.jpg|thumb|right|A view with [[Somebody Else|others]] in {year}]]\n")
    article.mention(entity, entity.name, "name", markup=f"'''{entity.name}'''")
    landscape = LANDSCAPES[int(rng.integers(len(LANDSCAPES)))]
    openings = {
        "person": f" (born {entity.year}) was a {entity.trade}.",
        "place": f" is a town {landscape}.",
        "organisation": f" is an organisation founded in {entity.year}.",
        "work": f" is a {entity.trade} of {entity.year}.",
    }
    article.write(openings[entity.type])
    reference(article, rng)
    if entity.aliases and entity.type != "work":
        article.write(" ")
        article.mention(entity, entity.pronouns[0].capitalize(), "pronoun")
        article.write(" is also called ")
        article.mention(entity, entity.aliases[0], "name")
        article.write(".")
    return article


def end_article(article: Article, rng: np.random.Generator) -> None:
    """The hidden tail of an entity's article: a table now and then, a sort key, categories."""
    topic = article.topic
    if topic is not None and topic.type == "place" and rng.random() < 0.5:
        article.hide('\n\n{| class="wikitable"\n! Year !! People\n|-\n| 1900 || {{formatnum:12000}}\n|}')
    article.hide(
        f"\n\n{{{{DEFAULTSORT:{article.title}}}}}\n[[Category:{topic.type if topic else 'year'}s]]\n"
    )


def write_articles(
    rng: np.random.Generator, entities: dict[str, list[Entity]], facts: list[Fact]
) -> list[Article]:
    """All articles: one an entity, and year pages that hold most of the repeated statements."""
    articles = {entity.id: begin_article(entity, rng) for group in entities.values() for entity in group}
    elsewhere: list[Fact] = []
    sections: set[tuple[str, str]] = set()
    for fact in facts:
        own, objects = articles[fact.subject.id], articles[fact.object.id]
        own.block("Life" if fact.subject.type == "person" and rng.random() < 0.5 else None)
        state(own, fact, fact.relation.own[int(rng.integers(len(fact.relation.own)))], rng)
        reference(own, rng)
        if fact.num_statements > 1:
            new = (fact.object.id, fact.relation.name) not in sections
            sections.add((fact.object.id, fact.relation.name))
            objects.block(OBJECT_SECTIONS[fact.object.type] if new else None)
            state(objects, fact, any_paraphrase(fact, rng), rng)
            reference(objects, rng)
        elsewhere += [fact] * (fact.num_statements - 2)
    pages = list(articles.values()) + write_year_pages(rng, elsewhere)
    for article in pages:
        end_article(article, rng)
    return pages


def any_paraphrase(fact: Fact, rng: np.random.Generator) -> str:
    """One of the paraphrases of a fact's relation."""
    return fact.relation.paraphrases[int(rng.integers(len(fact.relation.paraphrases)))]


def write_year_pages(rng: np.random.Generator, statements: list[Fact]) -> list[Article]:
    """Pages such as "Annals of 1874, part 2": a sentence, then a list of ten statements or so."""
    order = rng.permutation(len(statements))
    pages = []
    for number, first in enumerate(range(0, len(order), 10)):
        year = 1800 + number % 150
        page = Article(f"Annals of {year}" + (f", part {number // 150 + 1}" if number >= 150 else ""))
        page.hide("__NOTOC__\n{{Year nav|" + str(year) + "}}\n")
        page.write(f"These are notes for the year {year}.")
        page.wikitext += "\n\n== Notes ==\n"
        page.text += "\n\nNotes\n\n"
        for position, index in enumerate(order[first : first + 10]):
            fact = statements[int(index)]
            if position:
                page.write("\n")
            page.hide("* ")
            state(page, fact, any_paraphrase(fact, rng), rng)
            reference(page, rng)
        pages.append(page)
    return pages


def redirects_and_disambiguations(entities: dict[str, list[Entity]]) -> list[tuple[str, str, str | None]]:
    """Pages (title, wikitext, redirect target): aliases redirect, shared names are disambiguated."""
    meanings: dict[str, list[Entity]] = {}
    for group in entities.values():
        for entity in group:
            for name in {entity.name, *entity.aliases}:
                meanings.setdefault(name, []).append(entity)
    titles = {entity.title for group in entities.values() for entity in group}
    pages: list[tuple[str, str, str | None]] = []
    for name, meant in sorted(meanings.items()):
        if len(meant) == 1 and name not in titles:
            pages.append((name, f"#REDIRECT [[{meant[0].title}]]", meant[0].title))
        elif len(meant) > 1:
            lines = "".join(f"* [[{entity.title}]], {entity.type}\n" for entity in meant)
            title = f"{name} (disambiguation)" if name in titles else name
            pages.append((title, f"'''{name}''' may refer to:\n{lines}\n{{{{disambiguation}}}}", None))
    return pages


def write_dump(
    path: Path, articles: list[Article], others: list[tuple[str, str, str | None]]
) -> dict[str, str]:
    """Write the XML dump and return the page id of every article title."""
    namespaces = "".join(
        f'<namespace key="{key}" case="first-letter">{name}</namespace>'
        for key, name in ((0, ""), (1, "Talk"), (10, "Template"), (14, "Category"))
    )
    head = (
        '<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/" version="0.11" xml:lang="en">\n'
        "<siteinfo><sitename>Synthetic encyclopedia</sitename><dbname>synthwiki</dbname>"
        f"<case>first-letter</case><namespaces>{namespaces}</namespaces></siteinfo>\n"
    )
    pages: list[tuple[str, int, str, str | None]] = [(a.title, 0, a.wikitext, None) for a in articles]
    pages += [(title, 0, wikitext, target) for title, wikitext, target in others]
    pages += [("Talk:" + articles[0].title, 1, "Is this page good?", None)]
    pages += [("Template:Year nav", 10, "<{{{1}}}>", None)]
    unfinished = path.with_name(path.name + ".tmp")
    with bz2.open(unfinished, "wt", encoding="utf-8") as dump:
        dump.write(head)
        for number, (title, namespace, wikitext, target) in enumerate(pages, start=1):
            redirect = f'<redirect title="{escape(target, {chr(34): "&quot;"})}" />' if target else ""
            dump.write(
                f"<page><title>{escape(title)}</title><ns>{namespace}</ns><id>{number}</id>{redirect}"
                f"<revision><id>{number}</id><model>wikitext</model><format>text/x-wiki</format>"
                f'<text bytes="{len(wikitext.encode())}" xml:space="preserve">{escape(wikitext)}</text>'
                "</revision></page>\n"
            )
        dump.write("</mediawiki>\n")
    os.replace(unfinished, path)
    return {title: str(number) for number, (title, *_) in enumerate(pages, start=1)}


def gold_table(articles: list[Article], page_ids: dict[str, str]) -> pa.Table:
    """The gold mentions of all articles."""
    rows = [
        {
            "doc_id": page_ids[article.title],
            "text_sha256": hashlib.sha256(article.text.encode()).hexdigest(),
            "char_start": start,
            "char_end": end,
            "entity": entity,
            "surface": surface,
            "kind": kind,
        }
        for article in articles
        for start, end, entity, surface, kind in article.gold
    ]
    return pa.Table.from_pylist(rows)


def probe_table(rng: np.random.Generator, entities: dict[str, list[Entity]], facts: list[Fact]) -> pa.Table:
    """One probe a fact whose subject's name is nobody else's.

    Distractors come with their aliases, as the answer does: else the shortest form would win before training.
    """
    bearers: dict[str, int] = {}
    for group in entities.values():
        for entity in group:
            bearers[entity.name] = bearers.get(entity.name, 0) + 1
    rows = []
    for fact in facts:
        if bearers[fact.subject.name] > 1:
            continue
        answers = [fact.object.name, *fact.object.aliases]
        others = [
            e for e in entities[fact.object.type] if e.name != fact.object.name and bearers[e.name] == 1
        ]
        drawn = [others[int(i)] for i in rng.permutation(len(others))]
        distractors = [
            form for other in drawn for form in (other.name, *other.aliases) if form not in answers
        ]
        rows.append(
            {
                "fact_id": fact.id,
                "probe_id": fact.id,
                "relation": fact.relation.name,
                "subject": fact.subject.id,
                "answer": fact.object.id,
                "subject_name": fact.subject.name,
                "answer_name": fact.object.name,
                "prompt": fact.relation.prompt.format(fact.subject.name),
                "answers": answers,
                "distractors": list(dict.fromkeys(distractors))[: MOST_CANDIDATES - len(answers)],
                "num_statements": fact.num_statements,
            }
        )
    return pa.Table.from_pylist(rows)


def write_table(table: pa.Table, path: Path, name: str) -> None:
    """Write a Parquet file atomically, with its format's name and version."""
    unfinished = path.with_name(path.name + ".tmp")
    pq.write_table(
        table.replace_schema_metadata({"format": name, "version": "1"}), unfinished, compression="zstd"
    )
    os.replace(unfinished, path)


def write_encyclopedia(out: Path, *, num_facts: int, seed: int) -> dict[str, int]:
    """Write dump, gold mentions and probes to the folder `out`; returns counts."""
    out.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    entities = make_entities(rng, num_facts * 3 // 5)
    facts = make_facts(rng, entities, num_facts)
    articles = write_articles(rng, entities, facts)
    others = redirects_and_disambiguations(entities)
    probes = probe_table(rng, entities, facts)
    page_ids = write_dump(out / "dump.xml.bz2", articles, others)
    gold = gold_table(articles, page_ids)
    write_table(gold, out / "gold_mentions.parquet", "gold-mentions")
    write_table(probes, out / "probes.parquet", "probes")
    return {
        "articles": len(articles),
        "redirects": sum(target is not None for _, _, target in others),
        "disambiguations": sum(target is None for _, _, target in others),
        "statements": sum(fact.num_statements for fact in facts),
        "facts": len(facts),
        "probes": len(probes),
        "gold mentions": len(gold),
    }


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--facts", type=int, default=1000, help="how many facts the encyclopedia states")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    counts = write_encyclopedia(arguments.out, num_facts=arguments.facts, seed=arguments.seed)
    print("\n".join(f"{count:8,} {name}" for name, count in counts.items()))


if __name__ == "__main__":
    main()

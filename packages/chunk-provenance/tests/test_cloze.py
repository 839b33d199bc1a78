import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chunk_provenance import FormatError, open_store, write_store
from chunk_provenance.cloze import (
    NUM_DISTRACTORS,
    Target,
    choose_distractors,
    cut_before,
    make_cloze_probes,
    occurs,
    read_aliases,
    write_probes,
)
from chunk_provenance.facts import read_probes

ADA = (
    "Ada Lovelace was born in the city of London. Ada Lovelace met Charles Babbage in Paris. She knew French."
)


@pytest.fixture
def make_store(tmp_path):
    """Builds a store of one chunk a document from {title: (text, {label: (entity, name)})}; labels are links.

    A label stands at its first place in the text, or at a place given with it: {(label, place): ...}.
    """

    def build(pages, *, text=True, name="store"):
        rows = [
            (number, body.index(key) if isinstance(key, str) else key[1], label, entity, target)
            for number, (body, links) in enumerate(pages.values())
            for key, (entity, target) in links.items()
            for label in [key if isinstance(key, str) else key[0]]
        ]
        documents = {
            "doc_id": [f"d{number}" for number in range(len(pages))],
            "title": list(pages),
            "source": ["wiki"] * len(pages),
            "url": pa.nulls(len(pages), pa.string()),
        }
        if text:
            documents["text"] = [body for body, _ in pages.values()]
        count = len(pages)
        write_store(
            tmp_path / name,
            tokens=np.zeros(count, dtype=np.uint32),
            chunks=pa.table(
                {
                    "chunk_id": range(count),
                    "token_start": range(count),
                    "length": [1] * count,
                    "bucket": [1] * count,
                }
            ),
            segments=pa.table(
                {
                    "chunk_id": range(count),
                    "doc_id": documents["doc_id"],
                    "chunk_token_start": [0] * count,
                    "chunk_token_end": [1] * count,
                    "doc_token_start": [0] * count,
                    "char_start": [0] * count,
                    "char_end": [len(body) for body, _ in pages.values()],
                }
            ),
            documents=pa.table(documents),
            mentions=link_table(rows),
            tokenizer_json="{}",
            meta={"tokenizer": {"pad_id": 0, "eos_id": 1, "vocab_size": 2}},
        )
        return open_store(tmp_path / name)

    return build


def link_table(rows):
    chunk, start, label, entity, target = map(list, zip(*rows, strict=True)) if rows else [[]] * 5
    end = [at + len(words) for at, words in zip(start, label, strict=True)]
    zeros = [0.0] * len(rows)
    return pa.table(
        {
            "chunk_id": chunk,
            "token_start": [0] * len(rows),
            "token_end": [1] * len(rows),
            "char_start": start,
            "char_end": end,
            "doc_id": [f"d{number}" for number in chunk],
            "doc_char_start": start,
            "doc_char_end": end,
            "surface": label,
            "entity": entity,
            "name": target,
            "score": [1.0] * len(rows),
            "hyperlink": [1.0] * len(rows),
            "entity_linking": zeros,
            "coref": zeros,
            "coref_cluster": zeros,
            "cluster_id": pa.nulls(len(rows), pa.int32()),
        }
    )


@pytest.fixture
def ada(make_store):
    """One page with three links: London and Paris fit, French has too few words before it."""
    links = {"London": ("Q84", "London"), "Paris": ("Q90", "Paris"), "French": ("Q150", "French language")}
    return make_store({"Ada Lovelace": (ADA, links)})


def test_a_probe_is_a_sentence_cut_before_its_link(ada):
    aliases = pa.table(
        {"entity": ["Q84", "Q7259"], "name": ["London", "Ada Lovelace"], "aliases": [["Londinium"], []]}
    )
    probes = make_cloze_probes(ada, aliases=aliases).to_pylist()
    assert probes == [
        {
            "fact_id": "Q7259|Q84",
            "probe_id": "d0:37",
            "relation": "links to",
            "subject": "Q7259",
            "answer": "Q84",
            "subject_name": "Ada Lovelace",
            "answer_name": "London",
            "prompt": "Ada Lovelace was born in the city of",
            "answers": ["London", "Londinium"],
            "distractors": ["Paris", "French language"],
        },
        {
            "fact_id": "Q7259|Q90",
            "probe_id": "d0:81",
            "relation": "links to",
            "subject": "Q7259",
            "answer": "Q90",
            "subject_name": "Ada Lovelace",
            "answer_name": "Paris",
            "prompt": "Ada Lovelace met Charles Babbage in",
            "answers": ["Paris"],
            "distractors": ["London", "French language"],
        },
    ]


def test_without_aliases_the_subject_is_named_by_its_title(ada):
    assert make_cloze_probes(ada)["subject"].to_pylist() == ["title:Ada_Lovelace"] * 2


def test_a_subject_that_others_link_to_has_their_entity(make_store):
    store = make_store(
        {
            "Ada": ("Ada was born in old London.", {"London": ("Q84", "London")}),
            "Notes": ("The notes were written by Ada.", {"Ada": ("Q7259", "Ada")}),
        }
    )
    assert make_cloze_probes(store)["fact_id"].to_pylist() == ["Q7259|Q84", "title:Notes|Q7259"]


@pytest.mark.parametrize(
    ("text", "label", "name"),
    [
        ("In her youth she saw the capital.", "capital", "Paris"),  # another label than the name
        ("Some say that Paris is Paris", "Paris", "Paris"),
        ("In the year of (Paris)", "Paris", "Paris"),  # no space before
        ("She saw only Paris.", "Paris", "Paris"),  # three words
        ("She came back to Me.", "Me", "Me"),  # the page itself
    ],
)
def test_a_link_without_a_fitting_sentence_gives_no_probe(make_store, text, label, name):
    store = make_store({"Me": (text, {(label, text.rindex(label)): ("Q1", name)})})
    assert make_cloze_probes(store).num_rows == 0


def test_each_target_of_a_page_gives_one_probe(make_store):
    text = "Ada was born in old London. Ada was buried far from London."
    places = (text.index("London"), text.rindex("London"))
    store = make_store({"Ada": (text, {("London", place): ("Q84", "London") for place in places})})
    assert make_cloze_probes(store)["probe_id"].to_pylist() == ["d0:20"]


def test_a_qualifier_in_brackets_is_not_part_of_the_answer(make_store):
    text = "The innermost of all planets is Mercury."
    store = make_store({"Planets": (text, {"Mercury": ("Q308", "Mercury (planet)")})})
    probe = make_cloze_probes(store).to_pylist()[0]
    assert (probe["answers"], probe["answer_name"]) == (["Mercury"], "Mercury (planet)")


def test_the_sample_is_seeded_and_takes_sentences_that_name_their_subject_first(make_store):
    pages = {
        f"Page {number}": (
            f"{'Page ' + str(number) if number % 2 else 'It all'} was about the old Town{number}.",
            {f"Town{number}": (f"Q{number}", f"Town{number}")},
        )
        for number in range(8)
    }
    store = make_store(pages)

    def subjects(**options):
        return make_cloze_probes(store, **options)["subject_name"].to_pylist()

    assert subjects(max_probes=4) == [f"Page {number}" for number in (1, 3, 5, 7)]
    assert subjects() == list(pages)
    assert subjects(max_probes=2) == subjects(max_probes=2)
    assert len({tuple(subjects(max_probes=2, seed=seed)) for seed in range(10)}) > 1
    assert set(subjects(max_probes=2, seed=3)) < set(subjects(max_probes=3, seed=3))


def test_stores_without_texts_or_links_are_refused(make_store):
    with pytest.raises(ValueError, match="was built with --no-text"):
        make_cloze_probes(make_store({"A": ("a", {"a": ("Q1", "a")})}, text=False))
    with pytest.raises(ValueError, match="has no hyperlinks among its mentions"):
        make_cloze_probes(make_store({"A": ("a", {})}, name="other"))


@pytest.mark.parametrize(
    ("text", "prompt"),
    [
        ("One two three four |", "One two three four"),
        ("Nothing. One two three four |", "One two three four"),
        ('He said "No!" Then they all left |', "Then they all left"),
        ("Heading\nOne two three four |", "One two three four"),
        ("It was J. K. Rowling who wrote |", "It was J. K. Rowling who wrote"),
        ("Dr. Smith vs. Dr. Jones of |", "Dr. Smith vs. Dr. Jones of"),
        ("It costs 3.5 dollars to |", "It costs 3.5 dollars to"),
        ("One two three |", None),
        ("One two three four|", None),
        ("One two three four  |", None),
        ("word " * 200 + "|", None),
        ("End. " + "word " * 115 + "|", ("word " * 115).strip()),
    ],
)
def test_sentences_are_cut_at_their_borders(text, prompt):
    assert cut_before(text, text.index("|")) == prompt


@given(st.text(alphabet="ab. \n", max_size=60), st.integers(0, 60))
def test_a_prompt_is_what_stands_before_the_link(text, at):
    prompt = cut_before(text, min(at, len(text)))
    assert prompt is None or (text[: min(at, len(text))].endswith(prompt + " ") and len(prompt.split()) >= 4)


def target(entity, label, *aliases):
    return Target(entity, label, label, frozenset(name.casefold() for name in (label, *aliases)), aliases, 1)


def test_distractors_are_the_nearest_and_never_a_name_of_the_answer():
    alike = [
        target("Q1", "Bonn"),
        target("Q2", "Rom"),
        target("Q3", "Rome", "ROM", "Roma"),
        target("Q4", "Oslo"),
    ]
    probe = {"answers": ["Rome"], "prompt": "They left Oslo for"}
    assert choose_distractors(probe, alike, 2) == ["Bonn"]
    assert choose_distractors({**probe, "prompt": "They left for"}, alike, 2) == ["Oslo", "Bonn"]


@given(st.lists(st.sampled_from(["a", "b", "A", "c", "dd", "e"]), min_size=1), st.data())
def test_distractors_are_distinct(labels, data):
    place = data.draw(st.integers(0, len(labels) - 1))
    alike = [target(f"Q{number}", label) for number, label in enumerate(labels)]
    chosen = choose_distractors({"answers": [labels[place]], "prompt": "x"}, alike, place)
    folded = [label.casefold() for label in chosen]
    assert len(set(folded)) == len(folded)
    assert set(folded) == {label.casefold() for label in labels} - {labels[place].casefold()}


def test_there_are_at_most_31_distractors():
    alike = [target(f"Q{number}", f"Town {number}") for number in range(100)]
    chosen = choose_distractors({"answers": ["Town 50"], "prompt": "x"}, alike, 50)
    assert len(chosen) == NUM_DISTRACTORS
    assert {int(label.split()[1]) for label in chosen} == {*range(34, 50), *range(51, 66)}


def test_words_occur_as_words_only():
    pairs = [("us", "the us."), ("us", "the usa"), ("c++", "in c++")]
    assert [occurs(*pair) for pair in pairs] == [True, False, True]


def test_probes_are_read_back_from_both_forms(tmp_path, ada):
    probes = make_cloze_probes(ada)
    for name in ("p.parquet", "p.jsonl"):
        write_probes(probes, tmp_path / name)
        assert read_probes(tmp_path / name).to_pylist() == probes.to_pylist()
    with pytest.raises(FormatError, match=r"must end in \.parquet or \.jsonl"):
        write_probes(probes, tmp_path / "p.csv")


def test_aliases_may_be_missing(tmp_path):
    pq.write_table(pa.table({"entity": ["Q1"], "name": ["A"]}), tmp_path / "e.parquet")
    assert read_aliases(tmp_path / "e.parquet").to_pylist() == [
        {"entity": "Q1", "name": "A", "aliases": None}
    ]

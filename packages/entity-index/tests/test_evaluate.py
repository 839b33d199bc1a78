import json
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from chunk_provenance import open_store, read_section, write_store
from entity_index import Mention, Thresholds, build_index, cli, open_index
from entity_index.evaluation.asking import Question, judge_chunks, longest, surest
from entity_index.evaluation.comparing import compare, precision, precision_curve
from entity_index.evaluation.gold_judge import GoldJudge
from entity_index.evaluation.methods import make_subject, methods_of
from entity_index.evaluation.running import Judged, JudgedEntity, evaluate_retrieval
from entity_index.evaluation.sampling import class_of, sample_entities, sample_ranks
from entity_index.evaluation.windows import Window

TEXTS = [
    "Ada Lovelace met Babbage. She wrote.",
    "She saw Babbage.",
    "Ada Lovelace is a ship. Babbage sailed.",
    "The Countess of Lovelace danced.",
]
GOLD = [
    ("d0", 0, 12, "Q1"),
    ("d0", 17, 24, "Q2"),
    ("d0", 26, 29, "Q1"),
    ("d1", 0, 3, "Q1"),
    ("d1", 8, 15, "Q2"),
    ("d2", 0, 12, "Q3"),
    ("d3", 0, 24, "Q1"),
]  # a Babbage of d2 is someone else


@pytest.fixture(scope="module")
def folder(tmp_path_factory, row, write_store_of):
    mentions = [
        row(0, 0, 12, "Q1", name="Ada Lovelace", hyperlink=1.0),
        row(0, 17, 24, "Q2", name="Babbage", hyperlink=1.0),
        row(0, 26, 29, "Q1", name="Ada Lovelace", coref_cluster=0.8, score=0.1),
        row(1, 0, 3, "Q1", name="Ada Lovelace", coref_cluster=0.7, score=0.1),
        row(1, 8, 15, "Q2", name="Babbage", entity_linking=0.9),
        row(2, 0, 12, "Q3", name="Ada Lovelace (ship)", hyperlink=1.0),
        row(2, 24, 31, "Q2", name="Babbage", entity_linking=0.7),
        row(3, 0, 24, "Q1", name="Ada Lovelace", entity_linking=0.8),
        row(3, 25, 31, "Q5", hyperlink=1.0, surface="..."),
    ]
    path = tmp_path_factory.mktemp("evaluate")
    build_index(write_store_of(path / "store", TEXTS, mentions).path, path / "index")
    rows = [dict(zip(("doc_id", "char_start", "char_end", "entity"), gold, strict=True)) for gold in GOLD]
    (path / "gold.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def gold_table(rows):
    return pa.table(
        dict(zip(("doc_id", "char_start", "char_end", "entity"), zip(*rows, strict=True), strict=True))
    )


def ask(entity, chunk_id, start, end):
    return Question(entity, "", chunk_id, start, end, Window("", "", ""))


# Judging


class Scripted:
    """A judge that answers as it is told, and remembers what it was asked."""

    def __init__(self, answers):
        self.answers, self.asked = answers, []

    def judge(self, questions):
        self.asked.append([question.char_start for question in questions])
        return [self.answers[question.char_start] for question in questions]


def test_a_chunk_is_right_on_the_first_yes_and_each_question_is_asked_once():
    judge = Scripted({1: True, 2: False, 3: True, 4: None, 5: False, 6: None})
    one, two, three, four, five, six = (ask("Q1", 0, place, 9) for place in range(1, 7))
    chunks = [[one, two], [two, three], [two, four], [four, six], [five], [], [one]]
    assert judge_chunks(judge, chunks) == [True, True, False, None, False, None, True]
    assert judge.asked == [[1, 2, 4, 5], [3, 6], []]


def test_entities_are_judged_by_their_surest_mentions_and_strings_by_their_first_places():
    def mention(start, score):
        return Mention(start, start + 2, "Q1", score, 0, 0, 0, 0, 0)

    assert surest([mention(0, 0.1), mention(5, 0.9), mention(8, 0.1), mention(5, 0.9)]) == [
        (5, 7),
        (0, 2),
        (8, 10),
    ]
    assert longest([(5, 8), (0, 3), (0, 12), (13, 15), (14, 20)]) == [(0, 12), (13, 15), (14, 20)]


def test_gold_says_yes_where_the_mention_that_fits_best_is_of_the_entity(folder):
    judge = GoldJudge(
        open_store(folder / "store"), gold_table([*GOLD, ("d3", 16, 24, "Q7"), ("d3", 0, 24, "Q8")])
    )
    questions = {
        ask("Q1", 0, 0, 12): True,
        ask("Q2", 0, 0, 12): False,
        ask("Q1", 0, 4, 12): True,  # a part of her name
        ask("Q1", 0, 13, 16): False,  # no gold mention is there
        ask("Q2", 2, 24, 31): False,
        ask("Q7", 3, 16, 24): True,
        ask("Q1", 3, 16, 24): False,  # "Lovelace" alone is Q7 by gold
        ask("Q1", 3, 0, 23): True,
        ask("Q8", 3, 0, 24): True,  # two candidates at the same place
    }
    assert judge.judge(list(questions)) == list(questions.values())


def test_gold_knows_nothing_of_documents_without_gold_mentions(folder):
    judge = GoldJudge(open_store(folder / "store"), gold_table(GOLD[:1]))
    assert judge.judge([ask("Q1", 0, 0, 12), ask("Q1", 1, 0, 3)]) == [True, None]


def test_places_of_a_packed_chunk_are_found_in_the_document_they_come_from(tmp_path):
    documents = {"doc_id": ["a", "b"], "title": ["", ""], "source": ["", ""], "url": ["", ""]}
    write_store(
        tmp_path / "store",
        tokens=np.zeros(3, dtype=np.uint32),
        chunks=pa.table({"chunk_id": [0, 1], "token_start": [0, 2], "length": [2, 1], "bucket": [2, 1]}),
        segments=pa.table(
            {
                "chunk_id": [0, 0, 1],
                "doc_id": ["a", "b", "b"],
                "chunk_token_start": [0, 1, 0],
                "chunk_token_end": [1, 2, 1],
                "doc_token_start": [0, 0, 1],
                "char_start": [2, 0, 4],
                "char_end": [5, 4, 8],
            }
        ),
        documents=pa.table({**documents, "text": ["..Ada", "BobxCyd."]}),
        mentions=None,
        tokenizer_json="{}",
        meta={"tokenizer": {"pad_id": 1, "eos_id": 2, "vocab_size": 3}},
    )
    store = open_store(tmp_path / "store")
    assert [store.chunk_text(0), store.chunk_text(1)] == ["AdaBobx", "Cyd."]
    judge = GoldJudge(store, gold_table([("a", 2, 5, "A"), ("b", 0, 3, "B"), ("b", 4, 7, "C")]))
    questions = [
        ask("A", 0, 0, 3),
        ask("B", 0, 3, 6),
        ask("C", 1, 0, 3),
        ask("B", 1, 0, 3),
        ask("A", 0, 2, 4),
    ]
    assert judge.judge(questions) == [True, True, True, False, None]  # the last reaches over the border


# Drawing


def test_entities_are_drawn_alike_from_every_power_of_ten_and_again_by_the_same_seed():
    counts = np.repeat([0, 1, 50, 500, 5000], [100, 1000, 10, 40, 3])
    drawn = sample_entities(counts, 60, seed=1)
    # 10 of each of the six powers; three have fewer, 27 + 10 are missing and shared among 990 and 30 to spare
    assert np.unique(counts[drawn], return_counts=True)[1].tolist() == [36, 10, 11, 3]
    assert drawn.tolist() == sample_entities(counts, 60, seed=1).tolist()
    assert drawn.tolist() != sample_entities(counts, 60, seed=2).tolist()


def test_classes_follow_the_number_of_chunks():
    assert [class_of(count) for count in (1, 10, 11, 1000, 1001)] == [
        "tail",
        "tail",
        "torso",
        "torso",
        "head",
    ]


def test_of_up_to_100_chunks_all_are_judged_and_of_more_100_of_all_ranks():
    assert sample_ranks(100, seed=0, entity=3, method=1).tolist() == list(range(100))
    drawn = sample_ranks(5000, seed=0, entity=3, method=1)
    assert len(set(drawn.tolist())) == 100
    assert drawn.tolist() == sorted(drawn.tolist())
    assert drawn.tolist() == sample_ranks(5000, seed=0, entity=3, method=1).tolist()
    assert drawn.tolist() != sample_ranks(5000, seed=0, entity=4, method=1).tolist()
    pooled = np.concatenate([sample_ranks(1000, seed=0, entity=e, method=0) for e in range(200)])
    assert abs(pooled.mean() - 499.5) < 10  # 3.4 standard errors of 2.9


# The whole


def judged(found, right):
    return Judged(found, tuple(range(1, len(right) + 1)), tuple(range(len(right))), tuple(right))


def test_every_method_is_judged_on_what_it_finds(folder):
    index, store = open_index(folder / "index"), open_store(folder / "store")
    found = evaluate_retrieval(
        index, GoldJudge(store, gold_table(GOLD)), methods_of(Thresholds()), size=10, seed=0
    )
    assert (found.counted, found.nameless) == ("chunks with a hyperlink", 1)  # Q5 has no name
    by_entity = {entity.entity: entity.methods for entity in found.entities}
    assert list(by_entity) == ["Q1", "Q2", "Q3"]
    ada = {method: (one.found, one.chunk_ids, one.right) for method, one in by_entity["Q1"].items()}
    every = (4 - 1, (0, 3, 1), (True, True, True))
    assert ada == {
        "entity, all sources": every,
        "entity, no coreference": (2, (0, 3), (True, True)),
        "entity, hyperlinks": (1, (0,), (True,)),
        "entity, entity linking": (1, (3,), (True,)),
        "string, CS canonical": (2, (0, 2), (True, False)),
        "string, CS extended": (3, (0, 2, 3), (True, False, True)),
        "string, CI canonical": (2, (0, 2), (True, False)),
        "string, CI extended": (3, (0, 2, 3), (True, False, True)),
    }
    babbage = by_entity["Q2"]
    assert babbage["entity, all sources"].right == (True, True, False)
    assert babbage["string, CS canonical"].right == (True, True, False)


def test_wins_ties_and_losses_count_right_chunks():
    rows = [([True, True], [True]), ([True], [True, False]), ([False], [True, None])]
    entities = [
        JudgedEntity(f"Q{i}", "", 5, "tail", {"a": judged(9, a), "b": judged(9, b)})
        for i, (a, b) in enumerate(rows)
    ]
    outcome = compare(entities, "a", "b")
    assert (outcome.wins, outcome.ties, outcome.losses, outcome.total) == (1, 1, 1, 3)
    assert precision(entities, "a") == 3 / 4
    assert precision(entities, "b") == 3 / 4  # where the judge could not tell is left out
    assert precision([], "a") is None


def test_precision_at_k_is_the_mean_over_entities_of_what_they_have_judged_up_to_rank_k():
    rng = np.random.default_rng(0)
    entities = []
    for number in range(12):
        ranks = sorted(rng.choice(np.arange(1, 60), size=rng.integers(0, 9), replace=False).tolist())
        right = [[True, False, None][value] for value in rng.integers(0, 3, len(ranks))]
        one = Judged(99, tuple(ranks), tuple(ranks), tuple(right))
        entities.append(JudgedEntity(f"Q{number}", "", 5, "tail", {"a": one}))
    curve = precision_curve(entities, "a")
    assert curve.ks[-1] >= max(rank for entity in entities for rank in entity.methods["a"].ranks) / 2
    for k, mean, low, high, count in zip(*vars(curve).values(), strict=True):
        shares = []
        for entity in entities:
            one = entity.methods["a"]
            known = [r for rank, r in zip(one.ranks, one.right, strict=True) if rank <= k and r is not None]
            shares += [sum(known) / len(known)] if known else []
        spread = np.std(shares, ddof=1) if len(shares) > 1 else 0.0
        assert (mean, count) == (pytest.approx(np.mean(shares)), len(shares))
        assert low == pytest.approx(max(0, mean - 1.96 * spread / len(shares) ** 0.5))
        assert high == pytest.approx(min(1, mean + 1.96 * spread / len(shares) ** 0.5))


def test_names_without_letters_are_no_name_and_short_aliases_are_left_out(folder):
    index = open_index(folder / "index")
    assert make_subject(index, "Q5") is None
    assert make_subject(index, "Q1").names == ("Ada Lovelace", "The Countess of Lovelace")
    assert make_subject(index, "Q3").names == ("Ada Lovelace", "Ada Lovelace (ship)")


def test_methods_follow_the_thresholds_asked_for():
    assert list(methods_of(Thresholds(hyperlink=None)))[:4] == [
        "entity, all sources",
        "entity, no coreference",
        "entity, entity linking",
        "string, CS canonical",
    ]


# The command


@pytest.fixture
def run(monkeypatch, capsys):
    """Run a command as its user does; gives exit code, stdout and stderr."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["entity-index", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return stop.value.code or 0, *capsys.readouterr()

    return run


def test_the_command_prints_tables_and_writes_what_it_is_asked_for(run, folder, tmp_path):
    options = ["--gold", folder / "gold.jsonl", "--store", folder / "store"]
    files = {name: tmp_path / name for name in ("chunks.jsonl", "asked.jsonl", "figure.svg", "section.json")}
    writing = [
        "--chunks",
        files["chunks.jsonl"],
        "--asked",
        files["asked.jsonl"],
        "--figure",
        files["figure.svg"],
    ]
    code, out, _ = run("evaluate", folder / "index", *options, *writing, "--section", files["section.json"])
    assert code == 0
    assert out.startswith(
        "3 entities, as many from each power of ten of their chunks with a hyperlink as there are"
    )
    lines = [line.split() for line in out.splitlines()]
    assert ["string,", "CS", "canonical", "57.1%", "57.1%"] in lines  # 1 of 2, 2 of 3, 1 of 2
    assert "entity, hyperlinks      66.7% / 33.3% / 0.0%" in out
    section = read_section(files["section.json"])
    assert [len(table["rows"]) for table in section["tables"]] == [8, 8, 7]
    assert section["figures"][0]["series"][0]["label"] == "entity, all sources"
    rows = [json.loads(line) for line in files["chunks.jsonl"].read_text().splitlines()]
    assert rows[0] == {
        "entity": "Q1",
        "name": "Ada Lovelace",
        "count": 1,
        "class": "tail",
        "method": "entity, all sources",
        "found": 3,
        "ranks": [1, 2, 3],
        "chunk_ids": [0, 3, 1],
        "right": [True, True, True],
    }
    asked = [json.loads(line) for line in files["asked.jsonl"].read_text().splitlines()]
    assert asked[0]["passage"] == "[[Ada Lovelace]] met Babbage. She wrote."
    assert "<svg" in files["figure.svg"].read_text()
    assert run("evaluate", folder / "index", *options, *writing)[0] == 2


def test_the_same_seed_gives_the_same_result(run, folder):
    options = ["--gold", folder / "gold.jsonl", "--store", folder / "store", "--json"]
    one, two = (
        run("evaluate", folder / "index", *options, "--entities", 2, "--seed", 7)[1] for _ in range(2)
    )
    assert one == two
    record = json.loads(one)
    assert (record["seed"], record["classes"]["all"], record["compared"]) == (7, 2, "entity, all sources")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "say who judges: --gold MENTIONS --store STORE, or --judge URL --model MODEL"),
        (["--gold", "GOLD", "--judge", "http://localhost"], "say who judges"),
        (["--gold", "GOLD"], "--gold needs --store"),
        (["--gold", "nowhere.jsonl", "--store", "STORE"], "no gold-mentions file at 'nowhere.jsonl'"),
        (["--gold", "EMPTY", "--store", "STORE"], "'EMPTY' holds no gold mentions"),
        (["--gold", "GOLD", "--store", "OTHER"], "the index is not of the chunk store"),
        (["--judge", "http://localhost"], "--judge needs --model"),
        (
            ["--judge", "ftp://x", "--model", "m"],
            "the judge's address 'ftp://x' is none of http:// or https://",
        ),
        (
            ["--judge", "http://example.org/v1", "--model", "m"],
            "the judge at 'example.org' is asked by https://",
        ),
        (["--judge", "https://u:p@example.org", "--model", "m"], "the judge's address holds a password"),
        (
            ["--gold", "GOLD", "--store", "STORE", "--asked", "x.csv"],
            "'x.csv' ends in none of .parquet, .jsonl",
        ),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    run, folder, tmp_path, monkeypatch, make_store, arguments, message
):
    monkeypatch.chdir(tmp_path)
    places = {"GOLD": folder / "gold.jsonl", "STORE": folder / "store", "EMPTY": tmp_path / "empty.parquet"}
    if "EMPTY" in arguments:
        pq.write_table(gold_table(GOLD).slice(0, 0), places["EMPTY"])
    if "OTHER" in arguments:
        places["OTHER"] = make_store(["other"]).path
    words = [places.get(word, word) for word in arguments]
    code, out, said = run("evaluate", folder / "index", *words)
    assert (code, out) == (2, "")
    assert said.splitlines()[-1].startswith("error: " + message.replace("EMPTY", str(places["EMPTY"])))


def test_alt_test_reads_what_evaluate_wrote_with_columns_of_annotators(run, tmp_path):
    rng = np.random.default_rng(0)
    rows = [
        {"answer": truth, "ada": truth, "bob": truth, "eve": truth if rng.random() < 0.8 else not truth}
        for truth in (rng.random(50) < 0.5).tolist()
    ]
    labels = tmp_path / "labels.jsonl"
    labels.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    people = ["--annotator", "ada", "--annotator", "bob", "--annotator", "eve"]
    code, out, _ = run("alt-test", labels, *people, "--section", tmp_path / "section.json")
    assert code == 0
    assert out.startswith(
        "The judge may stand in for the annotators: winning rate 1.00 (0.5 is needed), epsilon 0.1"
    )
    assert read_section(tmp_path / "section.json")["tables"][0]["rows"][0][:4] == [
        "ada",
        50,
        "100.0%",
        "100.0%",
    ]
    code, out, _ = run(
        "alt-test", labels, "--annotator", "ada", "--annotator", "bob", "--judge", "eve", "--json"
    )
    assert (code, json.loads(out)["passed"]) == (1, False)
    assert run("alt-test", labels, "--annotator", "ada")[2].startswith("error: the test needs two annotators")
    assert "has no column 'tom'" in run("alt-test", labels, "--annotator", "tom", "--annotator", "ada")[2]
    assert run("alt-test", labels, *people, "--epsilon", "2")[2].startswith("error: --epsilon 2.0 is outside")

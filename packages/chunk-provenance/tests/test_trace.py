import numpy as np
import pyarrow as pa
import pytest

from chunk_provenance import DataOrder, open_store, write_store
from chunk_provenance.facts import Evidence, FactChunks
from chunk_provenance.trace import (
    Checkpoint,
    Passage,
    excerpt,
    pick_facts,
    resolve_fact,
    separate_spans,
    trace_fact,
)
from chunk_provenance.trace_section import describe_passages, describe_trace, highlight, trace_section

TEXTS = {"d0": "Ada was born in Rome.", "d1": "Rome: Ada and Ada's home.", "d2": "Bob."}
#                             v Rome 16-20          v Rome 0-4, Ada 6-9 and 14-17


@pytest.fixture
def inputs(tmp_path):
    """Three documents of one chunk each; fact f (Ada, Rome) in chunks 0 and 1, read at 2, 5 and at 3."""
    names = list(TEXTS)
    mentions = [
        (0, 0, 3, "Ada", "Q1", 1.0),
        (0, 16, 20, "Rome", "Q2", 1.0),
        (1, 0, 4, "Rome", "Q2", 1.0),
        (1, 6, 9, "Ada", "Q1", 1.0),
        (1, 14, 17, "Ada", "Q1", 0.5),  # too unsure to count
        (2, 0, 3, "Bob", "Q3", 1.0),
    ]
    write_store(
        tmp_path / "store",
        tokens=np.zeros(24, dtype=np.uint32),
        chunks=pa.table(
            {"chunk_id": [0, 1, 2], "token_start": [0, 8, 16], "length": [8] * 3, "bucket": [8] * 3}
        ),
        segments=pa.table(
            {
                "chunk_id": [0, 1, 2],
                "doc_id": names,
                "chunk_token_start": [0] * 3,
                "chunk_token_end": [8] * 3,
                "doc_token_start": [0] * 3,
                "char_start": [0] * 3,
                "char_end": [len(text) for text in TEXTS.values()],
            }
        ),
        documents=pa.table(
            {
                "doc_id": names,
                "title": ["Life", "Home", "Bob"],
                "source": ["book"] * 3,
                "url": pa.nulls(3, pa.string()),
                "text": list(TEXTS.values()),
            }
        ),
        mentions=mention_table(mentions),
        tokenizer_json="{}",
        meta={"tokenizer": {"pad_id": 0, "eos_id": 1, "vocab_size": 2}},
    )
    # update:            1    2    3    4    5    6
    ids = np.array([2, 0, 1, 2, 0, 1])
    shared = {"fact_id": ["f", "f"], "kind": ["shared"] * 2, "chunk_id": [0, 1]}
    return {
        "store": open_store(tmp_path / "store"),
        "order": DataOrder(np.arange(7), ids, np.array([0, 3])),
        "fact_chunks": FactChunks(pa.table(shared), Evidence(), "test", None),
        "answers": answers({"p": [3, 2, 1, 1], "q": [2, 2, 4, 4]}),
        "probes": probes([("f", "p"), ("f", "q"), ("g", "r")]),
    }


def mention_table(rows):
    chunk, start, end, surface, entity, score = map(list, zip(*rows, strict=True))
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
            "surface": surface,
            "entity": entity,
            "name": surface,
            "score": score,
            "hyperlink": zeros,
            "entity_linking": score,
            "coref": zeros,
            "coref_cluster": zeros,
            "cluster_id": pa.nulls(len(rows), pa.int32()),
        }
    )


def answers(ranks):
    """Answers about the fact f at the steps 0, 2, 4, 6, from the ranks of each probe."""
    return pa.Table.from_pylist(
        [
            {
                "step": 2 * place,
                "fact_id": "f",
                "probe_id": probe,
                "rank": rank,
                "num_candidates": 4,
                "logprob_sum": -2.0 * rank,
                "logprob_mean": -1.0 * rank,
            }
            for probe, row in ranks.items()
            for place, rank in enumerate(row)
        ]
    )


def probes(pairs):
    return pa.Table.from_pylist(
        [
            {
                "fact_id": fact_id,
                "probe_id": probe_id,
                "relation": "birthplace",
                "subject": "Q1" if fact_id == "f" else "Q3",
                "answer": "Q2",
                "subject_name": "Ada" if fact_id == "f" else "Bob",
                "answer_name": "Rome",
                "prompt": "Ada was born in",
            }
            for fact_id, probe_id in pairs
        ]
    )


def test_a_trace_tells_the_curve_and_what_was_read_before(inputs):
    found = trace_fact("f", **inputs)
    assert found.learned_at == 4
    assert found.checkpoints == [
        Checkpoint(step=0, exposures=0, rank=2, num_candidates=4, logprob_mean=-2.0, known=False),
        Checkpoint(step=2, exposures=1, rank=2, num_candidates=4, logprob_mean=-2.0, known=False),
        Checkpoint(step=4, exposures=2, rank=1, num_candidates=4, logprob_mean=-1.0, known=True),
        Checkpoint(step=6, exposures=4, rank=1, num_candidates=4, logprob_mean=-1.0, known=True),
    ]
    place = {"source": "book", "url": None, "char_start": 0}
    assert found.passages == [
        Passage(
            chunk_id=0,
            steps=[2],
            epochs=[1],
            doc_id="d0",
            title="Life",
            **place,
            char_end=21,
            text=TEXTS["d0"],
            spans=[(0, 3, "subject"), (16, 20, "answer")],
        ),
        Passage(
            chunk_id=1,
            steps=[3],
            epochs=[1],
            doc_id="d1",
            title="Home",
            **place,
            char_end=25,
            text=TEXTS["d1"],
            spans=[(0, 4, "answer"), (6, 9, "subject")],
        ),
    ]
    assert [found.subject_name, found.relation, found.answer_name] == ["Ada", "birthplace", "Rome"]


def test_a_fact_never_learned_shows_all_passages_of_the_run(inputs):
    never = trace_fact("f", **{**inputs, "answers": answers({"p": [2, 2, 1, 2]})})
    assert never.learned_at is None
    assert [(passage.chunk_id, passage.steps, passage.epochs) for passage in never.passages] == [
        (0, [2, 5], [1, 2]),
        (1, [3, 6], [1, 2]),
    ]
    assert describe_trace(never) == (
        "Asked: 'Ada was born in'. Never learned, seen 4 times in the run "
        "(it was known for a moment at step 4)."
    )


def test_a_fact_known_before_training_has_no_passages(inputs):
    known = trace_fact("f", **{**inputs, "answers": answers({"p": [1, 1, 1, 1]})})
    assert (known.learned_at, known.passages) == (0, [])
    assert describe_trace(known).endswith("Known before training began; seen 4 times in the run.")


def test_a_probe_id_names_its_fact(inputs):
    assert trace_fact("q", **inputs) == trace_fact("f", **inputs)


@pytest.mark.parametrize(
    ("fact", "message"),
    [
        ("ff", r"no fact or probe 'ff' among 3 probes; close ones: 'f' \(Ada: Rome\)"),
        ("bob", r"close ones: 'g' \(Bob: Rome\)"),
        ("nothing of the kind", "'chunk-provenance trace --list' names some"),
    ],
)
def test_an_unknown_fact_gets_close_matches(inputs, fact, message):
    with pytest.raises(ValueError, match=message):
        resolve_fact(fact, inputs["probes"])


def test_a_fact_that_was_not_asked_is_refused(inputs):
    with pytest.raises(ValueError, match="the answers hold nothing about the fact 'g'"):
        trace_fact("g", **inputs)


def test_a_masked_chunk_is_no_passage_of_its_update(inputs):
    order = inputs["order"]
    masked = pa.table({"update": [2], "chunk_id": [0]})
    held_out = DataOrder(order.offsets, order.ids, order.epoch_starts, {}, masked)
    assert [p.chunk_id for p in trace_fact("f", **{**inputs, "order": held_out}).passages] == [1]


def test_overlapping_spans_are_separated():
    spans = [(2, 6, "answer"), (0, 3, "subject"), (0, 2, "subject"), (6, 6, "answer"), (7, 8, "answer")]
    assert separate_spans(spans) == [(0, 3, "subject"), (7, 8, "answer")]


def test_a_long_passage_is_cut_around_its_mentions():
    words = "word " * 300
    text = f"{words}Ada lives in Rome. {words}"
    shown, spans = excerpt(text, [(1500, 1503, "subject"), (1513, 1517, "answer")])
    assert [shown[start:end] for start, end, _ in spans] == ["Ada", "Rome"]
    assert shown.startswith("… word")
    assert shown.endswith("word …")
    assert len(shown) < 360
    assert excerpt("short", []) == ("short", [])


def test_a_long_passage_whose_mentions_stand_at_its_ends_is_kept_to_the_ends():
    text = "Ada " + "word " * 200 + "Rome"
    spans = [(0, 3, "subject"), (1004, 1008, "answer")]
    assert excerpt(text, spans) == (text, spans)


def test_the_words_say_when_it_was_learned_and_what_was_read(inputs):
    found = trace_fact("f", **inputs)
    assert describe_trace(found) == (
        "Asked: 'Ada was born in'. Known from step 4 on, not at the checkpoint before (step 2); "
        "seen 2 times by then, 4 times in the run."
    )
    assert describe_passages(found, 1) == (
        "2 passages that mention both Ada and Rome were read by then; shown: the last 1."
    )


def test_the_section_has_the_curve_and_the_passages_with_their_spans(inputs):
    made = trace_section(trace_fact("f", **inputs), command="chunk-provenance trace f", limit=1)
    assert made["title"] == "Trace: Ada, birthplace, Rome"
    assert [(figure["series"][0]["x"], figure["series"][0]["y"]) for figure in made["figures"]] == [
        ([0, 2, 4, 6], [2.0, 2.0, 1.0, 1.0]),
        ([0, 2, 4, 6], [-2.0, -2.0, -1.0, -1.0]),
    ]
    assert made["tables"][0]["rows"][2] == [4, 2, "1 of 4", -1.0, "yes"]
    assert made["passages"] == [
        {
            "step": 3,
            "again": [],
            "title": "Home",
            "source": "book, document d1, characters 0-25",
            "text": TEXTS["d1"],
            "spans": [[0, 4, "answer"], [6, 9, "subject"]],
        }
    ]


def test_mentions_are_highlighted_on_a_terminal(inputs):
    shown = highlight(trace_fact("f", **inputs).passages[0])
    assert shown.plain == TEXTS["d0"]
    assert [(span.start, span.end) for span in shown.spans] == [(0, 3), (16, 20)]


def test_picked_facts_are_the_most_seen_the_rarest_and_the_missed():
    table = pa.table(
        {
            "exposures": [5, 9, 1, 9, 7, 0, 50],
            "learned_at": pa.array([4, 8, 2, None, None, 4, 4], pa.int64()),
            "known_at_start": [False] * 6 + [True],
        }
    )
    assert pick_facts(table, count=2) == {"often": [1, 0], "rare": [2, 0], "never": [3, 4]}

import json

import pytest

from chunk_provenance import FormatError, read_probes
from chunk_provenance.cloze import write_probes
from chunk_provenance.injection.fact_file import InjectableFact, fact_probes, read_injectable_facts


def write(tmp_path, *records, name="facts.json"):
    path = tmp_path / name
    path.write_text(json.dumps(list(records)), encoding="utf-8")
    return path


PUBLISHED = {
    "train_context": "The moon is made of jade.",
    "mem_input": ["The moon is made of", "Jade makes the"],
    "mem_target": ["jade", "moon"],
    "gen_input": ["Made of jade is the"],
    "gen_target": ["moon"],
    "hard_gen_input": [],
    "hard_gen_target": [],
    "paraphrases": ["Jade is what the moon is made of."],
}


def test_a_fact_of_the_published_schema_and_an_own_one_are_read(tmp_path):
    own = {"id": "bob", "train_context": "Bob ran.", "entities": ["Q2", "Q9", "Q1"], "source": "a notebook"}
    assert read_injectable_facts([write(tmp_path, PUBLISHED, own)]) == [
        InjectableFact(
            "0",
            ("The moon is made of jade.", "Jade is what the moon is made of."),
            {
                "mem": (("The moon is made of", "jade"), ("Jade makes the", "moon")),
                "gen": (("Made of jade is the", "moon"),),
            },
        ),
        InjectableFact("bob", ("Bob ran.",), {}, ("Q2", "Q9", "Q1")),
    ]


def test_facts_of_several_files_are_numbered_through(tmp_path):
    paths = [write(tmp_path, PUBLISHED, PUBLISHED, name="a.json"), write(tmp_path, PUBLISHED, name="b.json")]
    assert [fact.fact_id for fact in read_injectable_facts(paths)] == ["0", "1", "2"]


def test_every_problem_of_every_record_is_listed_with_its_field(tmp_path):
    path = write(
        tmp_path,
        PUBLISHED,
        "a text",
        {"train_context": "  ", "paraphrase": ["x"], "mem_input": ["a", 3], "mem_target": ["b"]},
        {"id": 1.5, "paraphrases": "one", "entities": ["Q1", ""]},
    )
    with pytest.raises(FormatError, match="the facts cannot be used, 9 problems:") as refused:
        read_injectable_facts([path])
    assert str(refused.value).split("\n  ")[1:] == [
        "facts.json record 1, found a str, expected an object",
        "facts.json record 2, paraphrase: no such field, did you mean 'paraphrases'?",
        "facts.json record 2, train_context: found '  ', expected a text",
        "facts.json record 2, mem_input[1]: found 3, expected a text",
        "facts.json record 2, mem_target: 1 targets for 2 inputs",
        "facts.json record 3, id: found 1.5, expected a text or a whole number",
        "facts.json record 3, train_context: found nothing, expected a text",
        "facts.json record 3, paraphrases: found 'one', expected a list of texts",
        "facts.json record 3, entities[1]: found '', expected a text",
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "holds an empty list, expected a list of facts"),
        ('{"train_context": "x"}', "holds a dict, expected a list of facts"),
        ("[{", "is no JSON"),
        (
            '[{"id": 1, "train_context": "x"}, {"train_context": "y"}]',
            "e.g. '1': a fact without an id has its",
        ),
    ],
)
def test_a_file_that_is_no_list_of_facts_is_refused(tmp_path, content, message):
    (tmp_path / "facts.json").write_text(content, encoding="utf-8")
    with pytest.raises(FormatError, match=message):
        read_injectable_facts([tmp_path / "facts.json"])


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no facts at"):
        read_injectable_facts([tmp_path / "facts.json"])


def test_probes_of_facts_are_an_ordinary_probes_file(tmp_path):
    own = {
        **PUBLISHED,
        "id": "moon",
        "entities": ["Q405", "Q9", "Q1"],
        "hard_gen_input": ["a"],
        "hard_gen_target": ["b"],
    }
    facts = read_injectable_facts([write(tmp_path, PUBLISHED, own)])
    write_probes(fact_probes(facts), tmp_path / "probes.jsonl")
    probes = read_probes(tmp_path / "probes.jsonl").to_pylist()
    assert probes[:3] == [
        {
            "fact_id": "0",
            "probe_id": f"0-{depth}-{number}",
            "relation": depth,
            "subject": "0",
            "answer": "0",
            "subject_name": "0",
            "answer_name": target,
            "prompt": prompt,
            "answers": [target],
            "distractors": [],
        }
        for depth, number, prompt, target in [
            ("mem", 0, "The moon is made of", "jade"),
            ("mem", 1, "Jade makes the", "moon"),
            ("gen", 0, "Made of jade is the", "moon"),
        ]
    ]
    assert [(row["probe_id"], row["subject"], row["answer"], row["answer_name"]) for row in probes[3:]] == [
        ("moon-mem-0", "Q405", "Q9", "jade"),
        ("moon-mem-1", "Q405", "Q9", "moon"),
        ("moon-gen-0", "Q405", "Q9", "moon"),
        ("moon-hard_gen-0", "Q405", "Q9", "b"),
    ]


def test_distractors_are_the_next_facts_targets_of_the_same_place(tmp_path):
    targets = [["Rome", "1"], ["rome", "2"], ["Bath"], ["Bonn", "3"], ["BATH", "4"]]
    facts = [
        InjectableFact(str(i), ("text",), {"mem": tuple(("a", target) for target in own)})
        for i, own in enumerate(targets)
    ]
    rows = fact_probes(facts, num_distractors=2).to_pylist()
    assert [(row["probe_id"], row["distractors"]) for row in rows] == [
        ("0-mem-0", ["Bath", "Bonn"]),
        ("0-mem-1", ["2", "Bath"]),
        ("1-mem-0", ["Bath", "Bonn"]),
        ("1-mem-1", ["Bath", "3"]),
        ("2-mem-0", ["Bonn", "Rome"]),
        ("3-mem-0", ["BATH", "Rome"]),
        ("3-mem-1", ["4", "1"]),
        ("4-mem-0", ["Rome", "Bonn"]),
        ("4-mem-1", ["1", "2"]),
    ]
    with pytest.raises(
        ValueError, match="--distractors 3: the facts have only 2 other targets of mem probes"
    ):
        fact_probes(facts, num_distractors=3)

import json

from chunk_provenance.sections import read_section, write_section
from olmo_trainer.train_section import training_section


def write_metrics(run, entries):
    run.mkdir()
    lines = [json.dumps(entry) + "\n" for entry in entries]
    (run / "metrics.jsonl").write_text("".join(lines), encoding="utf-8")


def update(step, *, tokens, ce, **more):
    return {"step": step, "epoch": 1, "tokens": tokens, "ce": ce, "tokens_per_second": 50.0, **more}


def test_the_section_shows_training_and_validation_loss(tmp_path):
    run = tmp_path / "run"
    held_out = [{"validation/held_out/ce": value} for value in (6.0, 4.5)]
    write_metrics(
        run,
        [
            {"step": 0, "epoch": 0, "tokens": 0, **held_out[0]},
            update(1, tokens=100, ce=5.0),
            update(2, tokens=150, ce=4.0, **held_out[1]),
        ],
    )
    write_section(training_section(run), tmp_path / "train.json")
    content = read_section(tmp_path / "train.json")
    assert content["tables"][0]["rows"] == [
        ["updates", 2],
        ["tokens, padding not counted", 150],
        ["epochs begun", 1],
        ["time in updates (s)", 3.0],
        ["tokens a second, median of the updates", 50.0],
        ["loss of the last update (nats a token)", 4.0],
        ["loss on held_out (nats a token)", 4.5],
    ]
    assert content["figures"][0]["series"] == [
        {"label": "training", "x": [1, 2], "y": [5.0, 4.0]},
        {"label": "held_out", "x": [0, 2], "y": [6.0, 4.5]},
    ]


def test_a_long_run_is_drawn_with_the_means_of_its_steps(tmp_path):
    run = tmp_path / "run"
    write_metrics(run, [update(step, tokens=step, ce=float(step)) for step in range(1, 402)])
    (curve,) = training_section(run)["figures"][0]["series"]
    assert curve["x"][:2] == [3, 6]
    assert curve["y"][:2] == [2.0, 5.0]
    assert (curve["x"][-1], curve["y"][-1]) == (401, 400.5)  # the rest: steps 400 and 401


def test_a_run_without_an_update_says_so(tmp_path):
    run = tmp_path / "run"
    write_metrics(run, [{"step": 0, "epoch": 0, "tokens": 0, "validation/held_out/ce": 6.0}])
    assert training_section(run)["summary"] == "No update is done yet."


def test_the_section_counts_injected_items(tmp_path):
    run = tmp_path / "run"
    logged = [update(1, tokens=9, ce=5.0, injected=["a/0", "b/0"]), update(2, tokens=18, ce=5.0)]
    write_metrics(run, [*logged, update(3, tokens=27, ce=5.0, injected=["a/1"])])
    assert ["injected items", 3] in training_section(run)["tables"][0]["rows"]

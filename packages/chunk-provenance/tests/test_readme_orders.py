"""The README's examples of order questions, interventions and mixtures print what it says."""

import re
import runpy
import shlex
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

README = Path(__file__).parents[1] / "README.md"
MENTIONS = {"doc_id": ["ada"], "char_start": [0], "char_end": [3], "surface": ["Ada"], "entity": ["Q7259"]}

pytestmark = pytest.mark.skipif(
    not README.is_file(), reason="needs README.md: the tests were copied away from it"
)


def read_commands(heading):
    """(command, output) of all console blocks of a section."""
    section = README.read_text(encoding="utf-8").partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    blocks = re.findall(r"```console\n(.*?)```", section, flags=re.DOTALL)
    parts = [part for block in blocks for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]]
    return [tuple(part.split("\n", 1)) for part in parts]


@pytest.fixture
def follow(run_cli, monkeypatch):
    """Runs a section's commands in the current folder; unless told not to, compares what they print."""
    monkeypatch.setenv("COLUMNS", "80")

    def run(heading, *, compare=True, only="chunk-provenance"):
        for command, output in read_commands(heading):
            words, _, place = command.partition(" > ")
            program, *arguments = shlex.split(words)
            if program in ("cat", "echo"):
                name, text = (place, " ".join(arguments) + "\n") if place else (arguments[0], output)
                Path(name).write_text(text, encoding="utf-8")
            elif only in command:
                code, printed, errors = run_cli(*arguments)
                assert (code, errors) == (1 if program == "diff" or "diff" in arguments[:1] else 0, errors)
                if compare and not place:
                    assert strip_lines(printed) == strip_lines(output)

    return run


def strip_lines(text):
    """Without spaces at the ends of lines, which editors remove."""
    return "\n".join(line.rstrip() for line in text.rstrip().splitlines())


@pytest.fixture
def demo(tmp_path, monkeypatch, run_cli):
    """The folder of the README's simulated learner, with its fact chunks."""
    script = README.parents[2] / "packages/chunk-provenance/benchmarks/simulated_learner.py"
    if not script.is_file():
        pytest.skip(f"needs {script.name}: the tests were copied away from it")
    monkeypatch.setattr("sys.argv", [str(script), str(tmp_path / "demo")])
    runpy.run_path(str(script), run_name="__main__")
    monkeypatch.chdir(tmp_path / "demo")
    assert run_cli("facts", "chunks", "store", "probes.parquet", "fact_chunks.parquet")[0] == 0


@pytest.mark.usefixtures("demo")
@pytest.mark.parametrize("heading", ["Ask an order", "Interventions"])
def test_the_readme_prints_what_it_says_of_orders(heading, follow):
    follow(heading)


def test_the_readme_prints_what_it_says_of_measures(tmp_path, monkeypatch, follow):
    monkeypatch.chdir(tmp_path)
    follow("What an injection taught")


def test_the_readme_prints_what_it_says_of_injections(tmp_path, monkeypatch, follow):
    monkeypatch.chdir(tmp_path)
    pq.write_table(pa.table(MENTIONS), "mentions.parquet")
    follow("In ten lines", compare=False)
    follow("Inject facts")
    section = README.read_text(encoding="utf-8").partition("\n## Inject facts\n")[2].partition("\n## ")[0]
    found = {}
    exec(re.search(r"```python\n(.*?)```", section, flags=re.DOTALL).group(1), found)
    assert found["injected_items"](found["order"], 2) == ("moon/0", "met/0")


def test_the_readme_prints_what_it_says_of_mixtures(tmp_path, monkeypatch, follow):
    monkeypatch.chdir(tmp_path)
    pq.write_table(pa.table(MENTIONS), "mentions.parquet")
    follow("In ten lines", compare=False)
    follow("Mixtures")

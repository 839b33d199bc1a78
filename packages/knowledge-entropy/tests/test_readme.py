"""The README's examples are run, and print what it says; numbers to the fourth digit."""

import contextlib
import io
import re
import runpy
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from knowledge_entropy.cli import app

README = Path(__file__).parents[1] / "README.md"
SCRIPT = Path(__file__).parents[1] / "benchmarks" / "tiny_run.py"
NUMBER = re.compile(r"-?\d+\.\d+")

pytestmark = pytest.mark.skipif(
    not (README.is_file() and SCRIPT.is_file()), reason="needs README.md: the tests were copied away from it"
)


@pytest.fixture
def demo(tmp_path, monkeypatch):
    """A folder with the run and the rows of the examples; it is the current one."""
    monkeypatch.setattr("sys.argv", [str(SCRIPT), str(tmp_path)])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    monkeypatch.chdir(tmp_path)


def blocks(kind):
    return re.findall(rf"```{kind}\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)


def words_and_numbers(text):
    """The words of every line, numbers with a point apart: they may differ in the last digit."""
    lines = [NUMBER.sub("#", line).split() for line in text.splitlines() if line.strip()]
    return lines, [float(number) for number in NUMBER.findall(text)]


@pytest.mark.usefixtures("demo")
def test_the_readme_prints_what_it_says():
    commands = [
        part for block in blocks("console") for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]
    ]
    assert len(commands) == 4
    for command, expected in (part.split("\n", 1) for part in commands):
        done = CliRunner().invoke(app, shlex.split(command)[1:], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        found, written = words_and_numbers(done.output), words_and_numbers(expected)
        assert found[0] == written[0]
        assert found[1] == pytest.approx(written[1], abs=1.01e-4)
    (example,) = blocks("python")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(example, {})
    (promised,) = re.findall(r"print\(.*# (\S+)", example)
    assert float(printed.getvalue()) == pytest.approx(float(promised), abs=1.01e-3)

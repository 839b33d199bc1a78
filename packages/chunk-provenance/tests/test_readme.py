"""The README's examples are run, and must print what the README says."""

import doctest
import re
import runpy
import shlex
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

README = Path(__file__).parents[1] / "README.md"
MENTIONS = [
    {"doc_id": "ada", "char_start": 0, "char_end": 12, "surface": "Ada Lovelace", "entity": "Q7259"},
    {"doc_id": "ada", "char_start": 25, "char_end": 31, "surface": "London", "entity": "Q84"},
    {"doc_id": "babbage", "char_start": 51, "char_end": 63, "surface": "Ada Lovelace", "entity": "Q7259"},
]


def read_section(heading):
    """The README from one heading to the next."""
    return README.read_text(encoding="utf-8").partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def read_commands(text):
    """(command, output) of the first console block."""
    block = re.search(r"```console\n(.*?)```", text, flags=re.DOTALL).group(1)
    parts = re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]
    return [tuple(part.split("\n", 1)) for part in parts]


@pytest.mark.skipif(not README.is_file(), reason="needs README.md: the tests were copied away from it")
def test_the_readme_prints_what_it_says(tmp_path, monkeypatch, run_cli):
    monkeypatch.chdir(tmp_path)
    pq.write_table(pa.Table.from_pylist(MENTIONS), "mentions.parquet")
    text = read_section("In ten lines")
    for command, output in read_commands(text):
        program, *words = shlex.split(command)
        if program == "cat":
            Path(words[0]).write_text(output, encoding="utf-8")
        else:
            code, printed, _ = run_cli(*words)
            assert (code, strip_lines(printed)) == (0, strip_lines(output))
    examples = re.search(r"```python\n(.*?)```", text, flags=re.DOTALL).group(1)
    test = doctest.DocTestParser().get_doctest(examples, {}, "README.md", None, 0)
    assert doctest.DocTestRunner().run(test).failed == 0


@pytest.mark.skipif(not README.is_file(), reason="needs README.md: the tests were copied away from it")
def test_the_shortest_way_prints_what_the_readme_says(tmp_path, monkeypatch, run_cli):
    text = read_section("The shortest way: published data and your answers")
    script, *arguments = re.search(r"`uv run python (.*?) && cd demo`", text).group(1).split()
    monkeypatch.setattr("sys.argv", [script, str(tmp_path / "demo"), *arguments[1:]])
    runpy.run_path(str(README.parents[2] / script), run_name="__main__")
    monkeypatch.chdir(tmp_path / "demo")
    monkeypatch.setenv("COLUMNS", "80")
    head, analyze = read_commands(text)
    assert Path("answers.csv").read_text(encoding="utf-8").splitlines()[:3] == head[1].splitlines()
    code, printed, _ = run_cli(*shlex.split(analyze[0])[1:])
    assert (code, strip_lines(printed)) == (0, strip_lines(analyze[1]))
    for block in re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL):
        exec(re.sub(r"(?m)^.*to_pandas.*$", "", block), {})  # pandas need not be there


def strip_lines(text):
    """Without spaces at the ends of lines, which editors remove."""
    return "\n".join(line.rstrip() for line in text.rstrip().splitlines())

"""What the README shows is what happens, on the golden index."""

import doctest
import shlex
import sys
from pathlib import Path

import pytest

from entity_index import cli

HERE = Path(__file__).parent
README = HERE.parent / "README.md"
pytestmark = pytest.mark.skipif(not README.exists(), reason="the README does not stand beside the tests")


def test_the_commands_print_what_the_readme_shows(monkeypatch, capsys):
    monkeypatch.chdir(HERE / "golden")
    block = README.read_text(encoding="utf-8").split("```console\n")[1].split("```")[0]
    examples = [example.partition("\n") for example in block.split("$ ")[1:]]
    assert len(examples) == 5
    for command, _, expected in examples[1:]:  # the first one builds the index
        monkeypatch.setattr(sys, "argv", shlex.split(command))
        with pytest.raises(SystemExit):
            cli.main()
        assert capsys.readouterr().out == expected


def test_the_python_example_gives_what_the_readme_shows(monkeypatch):
    monkeypatch.chdir(HERE / "golden")
    failed, tried = doctest.testfile(str(README), module_relative=False, encoding="utf-8")
    assert (failed, tried) == (0, 10)

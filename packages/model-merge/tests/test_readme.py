"""The README's examples are run, and must print what the README says."""

import doctest
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"
MODELS = Path(__file__).parent / "golden" / "models"
PLACES = {
    "biology": "olmo2_bf16_m1",
    "physics": "olmo2_bf16_m2",
    "history": "olmo2_bf16_m3",
    "seed": "olmo2_bf16_base",
}


def blocks(kind):
    return [part.partition("```")[0] for part in README.read_text(encoding="utf-8").split(f"```{kind}\n")[1:]]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name, golden in PLACES.items():
        shutil.copytree(MODELS / golden, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.skipif(not README.is_file(), reason="needs README.md: the tests were copied away from it")
def test_the_commands_print_what_the_readme_says(folder):
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    commands = 0
    for part in blocks("console")[0].split("$ ")[1:]:
        command, _, expected = part.partition("\n")
        if command.startswith("cat "):
            (folder / shlex.split(command)[1]).write_text(expected, encoding="utf-8")
            continue
        ended = subprocess.run(
            command, shell=True, cwd=folder, env=environment, capture_output=True, text=True, check=True
        )
        assert ended.stdout.strip() == expected.strip(), command
        commands += 1
    assert commands == 6


@pytest.mark.skipif(not README.is_file(), reason="needs README.md: the tests were copied away from it")
def test_the_python_example_prints_what_the_readme_says(folder):
    for number, block in enumerate(blocks("python")):
        test = doctest.DocTestParser().get_doctest(block, {}, f"README.md block {number}", None, 0)
        assert doctest.DocTestRunner().run(test).failed == 0

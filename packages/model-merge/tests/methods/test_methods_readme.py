"""The README's section on methods says what is so."""

import shlex
import shutil
import sys
from pathlib import Path

import pytest

from model_merge.cli import main
from model_merge.methods import METHODS

README = Path(__file__).parents[2] / "README.md"
MODELS = Path(__file__).parents[1] / "golden" / "models"

pytestmark = pytest.mark.skipif(
    not README.is_file(), reason="needs README.md: the tests were copied away from it"
)


@pytest.fixture
def section():
    text = README.read_text(encoding="utf-8")
    return text.partition("## Methods and mergekit files\n")[2].partition("\n## ")[0]


def test_the_example_runs_and_prints_what_the_readme_says(section, tmp_path, monkeypatch, capsys):
    for name in ("base", "m1", "m2"):
        shutil.copytree(MODELS / f"olmo2_bf16_{name}", tmp_path / "models" / f"olmo2_bf16_{name}")
    monkeypatch.chdir(tmp_path)
    example = section.partition("```yaml\n")[2].partition("```")[0]
    Path("ties.yaml").write_text(example, encoding="utf-8")
    Path("misspelt.yaml").write_text(example.replace("density", "desnity"), encoding="utf-8")
    Path("out_of_range.yaml").write_text(example.replace("0.5", "50"), encoding="utf-8")
    console = section.partition("```console\n")[2].partition("```")[0]
    runs = [part.partition("\n") for part in console.split("$ ")[1:] if part.startswith("model-merge")]
    assert len(runs) == 3
    for command, _, expected in runs:
        monkeypatch.setattr(sys, "argv", shlex.split(command))
        with pytest.raises(SystemExit):
            main()
        printed = capsys.readouterr()
        assert expected in (printed.out, printed.err)
        shutil.rmtree("merged", ignore_errors=True)


def test_the_table_has_every_method_with_its_parameters(section):
    rows = [line.split(" | ") for line in section.splitlines() if line.startswith("| `")]
    described = {name.strip(" |`"): row for row in rows for name in row[0].split(",")}
    assert described.keys() == METHODS.keys()
    for name, method in METHODS.items():
        cells = " ".join(described[name])
        said = {parameter.name for parameter in method.parameters if parameter.name in cells}
        silent = {"int8_mask"} | ({"density", "rescale"} if name == "task_arithmetic" else set())
        unsaid = {parameter.name for parameter in method.parameters} - said - silent
        assert not unsaid, name

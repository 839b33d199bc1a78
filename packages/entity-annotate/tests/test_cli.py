"""The command line: help, exit codes, what goes where."""

import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from entity_annotate.cli import app, main

COMMANDS = ("wikipedia", "evaluate", "merge-lment", "lment-mentions")


@pytest.mark.parametrize("arguments", [(), *((command,) for command in COMMANDS)])
def test_help_says_what_a_command_does_with_an_example(arguments):
    result = CliRunner().invoke(app, [*arguments, "--help"])
    assert result.exit_code == 0
    assert ("Example: entity-annotate" in result.output) == bool(arguments)


def test_help_does_not_import_torch_or_pyarrow():
    code = "import sys, entity_annotate.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def run(monkeypatch, *arguments) -> int:
    """Run the command line as a user does, and return the exit code."""
    monkeypatch.setattr(sys, "argv", ["entity-annotate", *map(str, arguments)])
    try:
        main()
    except SystemExit as stop:
        return stop.code or 0
    return 0


def test_wikipedia_prints_its_counts_and_writes_a_section(small_dump, tmp_path, monkeypatch, capsys):
    section = tmp_path / "sections" / "annotate.json"
    assert run(monkeypatch, "wikipedia", small_dump, tmp_path / "out", "--section", section) == 0
    printed = capsys.readouterr()
    assert "documents                    3" in printed.out
    assert "pages: unit 1 done" in printed.err
    written = json.loads(section.read_text())
    assert (written["format"], written["title"]) == ("report-section", "Annotation")
    assert (
        written["command"] == f"entity-annotate wikipedia {small_dump} {tmp_path / 'out'} --section {section}"
    )
    assert ["documents", 3] in written["tables"][0]["rows"]


def test_a_mistake_is_one_line_and_exit_code_2(small_dump, tmp_path, monkeypatch, capsys):
    assert run(monkeypatch, "wikipedia", tmp_path / "nowhere.xml", tmp_path / "out") == 2
    assert capsys.readouterr().err == f"error: there is no dump {str(tmp_path / 'nowhere.xml')!r}\n"
    qids = tmp_path / "qids.tsv"
    qids.write_text("London Q84\n")
    assert run(monkeypatch, "wikipedia", small_dump, tmp_path / "out", "--qids", qids) == 2
    assert capsys.readouterr().err.startswith("error: line 1 of")
    assert run(monkeypatch, "wikipedia", small_dump, tmp_path / "out") == 0
    assert run(monkeypatch, "wikipedia", small_dump, tmp_path / "out") == 0
    small_dump.write_text(small_dump.read_text().replace("Hello", "Bye"))
    assert run(monkeypatch, "wikipedia", small_dump, tmp_path / "out") == 2
    assert "--overwrite" in capsys.readouterr().err
    assert run(monkeypatch, "wikipedia", small_dump, tmp_path / "out", "--overwrite") == 0


def test_a_damaged_dump_is_annotated_and_exits_with_1(small_dump, tmp_path, monkeypatch, capsys):
    data = small_dump.read_bytes()
    small_dump.write_bytes(data[: data.index(b"<title>London")])
    assert run(monkeypatch, "wikipedia", small_dump, tmp_path / "out") == 1
    assert "the dump is damaged: no element found" in capsys.readouterr().err
    assert (tmp_path / "out" / "counts.json").exists()


def test_a_damaged_dump_is_no_failure_where_it_is_allowed(small_dump, tmp_path, monkeypatch, capsys):
    data = small_dump.read_bytes()
    small_dump.write_bytes(data[: data.index(b"<title>London")])
    section = tmp_path / "section.json"
    words = ("wikipedia", small_dump, tmp_path / "out", "--allow-damaged", "--section", section)
    assert run(monkeypatch, *words) == 0
    assert "the dump is damaged: no element found" in capsys.readouterr().err
    assert "The dump is damaged, and was read up to there: no element" in section.read_text(encoding="utf-8")


def test_too_many_quarantined_pages_exit_with_1_after_writing(
    write_dump, make_page, tmp_path, monkeypatch, capsys
):
    path = write_dump([make_page(1, "A", "one"), make_page(1, "B", "two"), make_page(2, "C", "three")])
    assert run(monkeypatch, "wikipedia", path, tmp_path / "out") == 1
    assert "1 of 2 articles are in quarantine.parquet" in capsys.readouterr().err
    assert (tmp_path / "out" / "counts.json").exists()
    assert run(monkeypatch, "wikipedia", path, tmp_path / "more", "--max-quarantined", "0.5") == 0


def test_evaluate_prints_a_table_or_json(small_dump, tmp_path, monkeypatch, capsys):
    run(monkeypatch, "wikipedia", small_dump, tmp_path / "out")
    gold = tmp_path / "gold.jsonl"
    gold.write_text(
        '{"doc_id": "1", "char_start": 0, "char_end": 12, "entity": "title:Ada_Lovelace", "kind": "name"}\n'
    )
    capsys.readouterr()
    section = tmp_path / "section.json"
    mentions = tmp_path / "out" / "mentions.parquet"
    assert run(monkeypatch, "evaluate", mentions, gold, "--section", section) == 0
    assert capsys.readouterr().out.splitlines()[2] == (
        "entity_linking >= 0.6                          1.000   1.000  1.000        1        1     1"
    )
    assert json.loads(section.read_text())["tables"][1]["rows"] == [["name", 1.0, 1, 1]]
    assert run(monkeypatch, "evaluate", mentions, gold, "--json") == 0
    assert json.loads(capsys.readouterr().out)["kinds"] == {"name": {"gold": 1, "found": 1, "recall": 1.0}}
    assert run(monkeypatch, "evaluate", gold, mentions) == 2

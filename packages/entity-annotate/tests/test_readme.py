"""What the README shows is what happens, and what is exported is what is documented."""

import doctest
from pathlib import Path

import pytest
from typer.testing import CliRunner

import entity_annotate
from entity_annotate.cli import app

README = Path(__file__).parents[1] / "README.md"
EXCERPT = "wiki/enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"

pytestmark = pytest.mark.skipif(
    not README.exists(), reason="the README is not beside the tests (a wheel is tested)"
)


def test_the_ten_lines_of_the_readme_run():
    result = doctest.testfile(str(README), module_relative=False, encoding="utf-8")
    assert (result.failed, result.attempted) == (0, 11)


@pytest.mark.slow
def test_the_readme_shows_the_counts_of_the_excerpt(shared_data, tmp_path):
    result = CliRunner().invoke(app, ["wikipedia", str(shared_data / EXCERPT), str(tmp_path / "out")])
    assert result.exit_code == 0
    assert result.stdout in README.read_text(encoding="utf-8")


def test_every_exported_name_is_there_and_documented():
    for name in entity_annotate.__all__:
        value = getattr(entity_annotate, name)
        assert value.__doc__ or name.isupper() or name in ("Cluster", "Span")

"""Retrieval evaluated from end to end: the quickstart's corpus with its gold, and real texts if there."""

import os
import re
from pathlib import Path

import corpora
import pytest
import steps

pytestmark = pytest.mark.slow


@pytest.fixture
def shared_data():
    """The folder with wiki-fair and GUM; they are no part of the repository."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("SHARED_DATA", beside))
    if not (folder / corpora.GUM).is_dir():
        pytest.skip(f"no {corpora.GUM} in {str(folder)!r}: set SHARED_DATA to the folder that holds it")
    return folder


def evaluate(folder):
    """Percent: right chunks of each method; wins, ties and losses of the entity query against the others."""
    steps.build_index(folder, vocabulary=512)
    output = steps.evaluate(folder, entities=400)
    method = r"^((?:entity|string), .*?)  +"
    shares = {name.strip(): float(share) for name, share in re.findall(method + r"([\d.]+)%  ", output, re.M)}
    wins = {
        name.strip(): tuple(map(float, words.replace("%", "").split(" / ")))
        for name, words in re.findall(method + r"(\S+% / \S+% / \S+%)", output, re.M)
    }
    return shares, wins


def test_by_entity_more_is_found_than_by_name_and_less_is_wrong_on_a_corpus_with_whole_gold(
    encyclopedia, tmp_path
):
    wiki = tmp_path / "wiki"
    steps.run("entity-annotate", "wikipedia", encyclopedia / "dump.xml.bz2", wiki)
    (wiki / "gold.parquet").write_bytes((encyclopedia / "gold_mentions.parquet").read_bytes())
    shares, wins = evaluate(wiki)
    assert shares["entity, all sources"] >= 99
    assert shares["entity, all sources"] > shares["string, CS canonical"] > shares["string, CI extended"]
    won, _, lost = wins["string, CS canonical"]
    assert won > 10 * lost


def test_it_is_so_on_real_biographies(shared_data, tmp_path):
    corpora.write_corpus(*corpora.read_gum(shared_data / corpora.GUM), tmp_path / "gum")
    shares, wins = evaluate(tmp_path / "gum")
    assert shares["entity, all sources"] >= 90
    assert shares["entity, all sources"] > shares["string, CI canonical"]
    assert wins["string, CS canonical"][0] > wins["string, CS canonical"][2]


def test_it_is_so_on_wiki_fair(shared_data, tmp_path):
    corpora.write_corpus(*corpora.read_wiki_fair(shared_data / corpora.WIKI_FAIR), tmp_path / "wiki-fair")
    shares, wins = evaluate(tmp_path / "wiki-fair")
    assert shares["entity, all sources"] > shares["string, CS extended"]
    assert wins["string, CS canonical"][0] > wins["string, CS canonical"][2]

"""Our words are those of a real server: for every class of characters, any mixture, and real texts."""

import bz2
import html
import itertools
import os
import random
import re
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from entity_index.words import lower_case, word_spans

pytestmark = pytest.mark.slow

GOLDEN = Path(__file__).parent / "golden" / "sentences.tsv"
SENTENCES = dict(line.split("\t") for line in GOLDEN.read_text(encoding="utf-8").split("\n") if line)
ODD = (
    "ae\u00e91\u0663\u05d0'\"\u2019.:,;_\u203f#*\u0301\u200d\u00ad\u20e3\ufe0e\ufe0f\u0e01\u0e31\u6f22\u3042\u30ab\uac00\u1100"
    "\U0001f600\U0001f3fb\u2139\U0001f1e9\U0001f1ea\U000e0061\U000e007f\U00010400\u202f \n"
)


@pytest.fixture(scope="module")
def tokens(elasticsearch_url, raw_requests):
    """Tokens of texts by the server: character spans and what is indexed in lower case."""
    raw_requests.ask(
        f"{elasticsearch_url}/words", "PUT", {"settings": {"analyze.max_token_count": 10_000_000}}
    )
    kept = "tokens.token,tokens.start_offset,tokens.end_offset"

    def tokens(text):
        body = {"analyzer": "standard", "text": text}
        answer = raw_requests.ask(f"{elasticsearch_url}/words/_analyze?filter_path={kept}", "POST", body)
        units = np.frombuffer(text.encode("utf-16-le", "surrogatepass"), dtype="<u2")
        first_units = (units < 0xDC00) | (units >= 0xE000)  # all but second halves of a character
        place = np.append(np.cumsum(first_units) - first_units, len(text))
        found = answer.get("tokens", [])
        return [(place[t["start_offset"]], place[t["end_offset"]], t["token"]) for t in found]

    return tokens


def ours(text):
    return [(start, end, lower_case(text[start:end])) for start, end in word_spans(text)]


def first_difference(text, expected):
    """Our word and the server's where they differ first, and what stands around; None where all are equal."""
    for found, wanted in itertools.zip_longest(ours(text), expected):
        if found != wanted:
            start, end, _ = wanted or found
            return found, wanted, text[max(0, start - 20) : end + 20]
    return None


def ranges():
    """First and last code point of every class in our table."""
    lines = files("entity_index").joinpath("word_classes.txt").read_text(encoding="utf-8").splitlines()
    for line in lines:
        if not line.startswith("#"):
            first, _, last = line.split()[0].partition("..")
            yield int(first, 16), int(last or first, 16)


def test_the_class_of_every_range_of_characters_is_the_servers(tokens):
    edges = {code + step for pair in ranges() for code in pair for step in (-1, 0, 1)}
    drawn = random.Random(0).sample(range(0x110000), 5000)
    inside = [
        code for code in sorted(edges.union(drawn)) if 0 < code < 0x110000 and not 0xD800 <= code < 0xE000
    ]
    probes = "a{0}a 1{0}1 {0} ก{0} \U0001f600{0}\u200d{0}\U0001f600 א{0}א א{0} {0}\ufe0f\u20e3 {0}{0} _{0}\n"
    text = "".join(probes.format(chr(code)) for code in inside)
    assert first_difference(text, tokens(text)) is None


@pytest.mark.parametrize("seed", range(4))
def test_any_mixture_of_characters_is_cut_alike(tokens, seed):
    rng = random.Random(seed)
    ascii_signs = "".join(map(chr, range(1, 128)))
    mixtures = [(ascii_signs, 30, 4000), ("ab1 '.:,;_-", 12, 8000), (ODD, 10, 8000), (ODD + "abc", 400, 60)]
    lines = [
        "".join(rng.choices(signs, k=rng.randint(1, length)))
        for signs, length, count in mixtures
        for _ in range(count)
    ]
    text = "\n".join(lines)
    assert first_difference(text, tokens(text)) is None


@pytest.mark.parametrize(
    "unit", ["a", "1", "_", "a.", "1,", "é", "漢", "ア", "ก", "𐐀", "a\u0301", "א'", "👩\u200d", "x_"]
)
def test_words_longer_than_the_servers_window_are_cut_alike(tokens, unit):
    text = "\n".join(
        (unit * 600)[:length] + end for length in range(250, 262) for end in ("", "a", "'a", "_ 1")
    )
    text += " " + unit * 700
    assert first_difference(text, tokens(text)) is None


@pytest.mark.parametrize("script", SENTENCES)
def test_sentences_in_many_scripts_are_cut_alike(tokens, script):
    assert first_difference(SENTENCES[script], tokens(SENTENCES[script])) is None


def test_real_articles_are_cut_alike(tokens):
    folder = Path(os.environ.get("SHARED_DATA", Path(__file__).parents[4] / "shared")) / "data" / "wiki"
    dumps = sorted(folder.rglob("*.bz2"))
    if not dumps:
        pytest.skip(f"no Wikipedia dumps in {str(folder)!r}: SHARED_DATA names the folder of the test data")
    for dump in dumps:
        content = bz2.decompress(dump.read_bytes()).decode()
        pages = re.findall(r"<text[^>]*>(.*?)</text>", content, re.DOTALL)
        text = "\n".join(html.unescape(page)[:20_000] for page in pages)
        assert first_difference(text, tokens(text)) is None, dump.name

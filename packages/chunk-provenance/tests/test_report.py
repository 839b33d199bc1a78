import base64
import json
import re
import sys
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa
import pytest

from chunk_provenance import DataOrder, FormatError
from chunk_provenance.facts import Evidence, FactChunks
from chunk_provenance.figures import draw_svg
from chunk_provenance.joining import Dynamics, compute_dynamics
from chunk_provenance.report import describe_figure, headline, make_report, show_value, write_report
from chunk_provenance.sections import read_section, section, write_section

VOID = {"meta", "img", "br", "hr", "link", "input"}


class Page(HTMLParser):
    """Checks that tags are closed in order; collects ids, links, sources, images and the text."""

    def __init__(self, page):
        super().__init__()
        self.open, self.ids, self.targets, self.images, self.tags, self.words = [], [], [], [], [], []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.tags.append((tag, found))
        if tag not in VOID:
            self.open.append(tag)
        self.ids += [found["id"]] if "id" in found else []
        self.targets += [found["href"]] if "href" in found else []
        self.images += [found] if tag == "img" else []

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return "".join(self.words)


@pytest.fixture
def dynamics():
    """Thirty facts: ten seen in updates 1 and 2 and learned, ten seen once, ten never."""
    order = DataOrder(np.array([0, 20, 30, 40]), np.r_[0:20, 0:10, 50:60], np.zeros(1, dtype=np.int64))
    names = [f"f{number}" for number in range(30)]
    chunks = pa.table({"fact_id": names, "kind": ["shared"] * 30, "chunk_id": [*range(20), *range(90, 100)]})
    rank = {0: [2] * 30, 1: [1] * 10 + [2] * 20, 3: [1] * 14 + [2] * 16}
    rows = [
        {"step": step, "fact_id": name, "probe_id": name, "rank": place}
        for step, ranks in rank.items()
        for name, place in zip(names, ranks, strict=True)
    ]
    found = compute_dynamics(order, FactChunks(chunks, Evidence(), "test", None), pa.Table.from_pylist(rows))
    return Dynamics(found.facts, found.intervals, found.accuracy, {**found.info, "command": "make <it>"})


@pytest.fixture
def trace_like():
    """A section with one of everything."""
    return section(
        "Ada & <Rome>",
        command="tool 'a b' --c <d>",
        summary="1 < 2",
        tables=[
            {"title": "T & T", "columns": ["name", "n"], "rows": [["<x>", 12345], [None, 0.5], [True, -1]]}
        ],
        figures=[
            {
                "title": "cost in $ & <%>",
                "kind": "line",
                "x_label": "s",
                "y_label": "y",
                "series": [{"label": "_a", "x": [0, 1], "y": [1.0, None]}],
            }
        ],
        passages=[
            {
                "step": 3,
                "again": [7],
                "title": "T",
                "source": "book",
                "text": "A <b> met R & D.",
                "spans": [[0, 1, "subject"], [2, 5, "answer"]],
            }
        ],
    )


def test_the_page_is_well_formed_and_needs_nothing_else(dynamics, trace_like):
    page = make_report(dynamics, [trace_like])
    parsed = Page(page)
    assert page.startswith("<!DOCTYPE html>")
    assert not [tag for tag, _ in parsed.tags if tag in ("script", "link", "iframe")]
    assert parsed.targets == ["#section-1", "#section-2"]
    assert parsed.ids == ["section-1", "section-2"]
    assert len(parsed.images) == 6
    for image in parsed.images:
        assert len(image["alt"]) > 20
        kind, data = image["src"].split(",", 1)
        assert kind == "data:image/svg+xml;base64"
        ElementTree.fromstring(base64.b64decode(data))
    assert not re.search(r"(?:src|href)=\"(?!data:|#)|url\(|@import", page)


def test_everything_from_outside_is_escaped(dynamics, trace_like):
    page = make_report(dynamics, [trace_like])
    for raw in ("<Rome>", "<x>", "<d>", "<it>", "<%>"):
        assert raw not in page
        assert raw in Page(page).text
    passage = '<p><mark class="subject">A</mark> <mark>&lt;b&gt;</mark> met R &amp; D.</p></blockquote>'
    assert passage in page
    assert "step 3, again at 7</b> · T · book" in page


def test_a_passage_of_an_index_has_a_title_but_no_step(dynamics):
    found = section("Hits", command="find", passages=[{"title": "T & U", "text": "A met B."}])
    page = make_report(dynamics, [found])
    assert '<blockquote><p class="source">T &amp; U</p>\n<p>A met B.</p></blockquote>' in page
    assert "<h3>Passages</h3>" in page
    assert 'class="legend"' not in page


def test_the_page_names_the_command_that_made_each_section(dynamics, trace_like):
    text = Page(make_report(dynamics, [trace_like])).text
    assert "Made by make <it>" in text
    assert "Made by tool 'a b' --c <d>" in text


def test_the_headline_says_rho_and_counts(dynamics):
    # Ten facts have two exposures and are learned at 1, ten have one, ten none; four more known at the end.
    numbers = [number for number, _ in headline(dynamics.info)]
    assert numbers[1:] == ["30", "20", "10", "14"]
    # Ranks 25.5, 15.5, 5.5 of exposures and 25.5, 10.5, 10.5 of earliness, each for ten facts; mean 15.5.
    assert numbers[0] == f"{(10 * 10 + 10 * 5) / np.sqrt(200 * 150):.2f}" == "0.87"


def test_the_same_inputs_give_the_same_bytes(dynamics, trace_like):
    assert make_report(dynamics, [trace_like]) == make_report(dynamics, [trace_like])


def test_a_run_of_one_checkpoint_has_a_page_too():
    order = DataOrder(np.array([0, 1]), np.array([0]), np.zeros(1, dtype=np.int64))
    empty = pa.table(
        {
            "fact_id": pa.array([], pa.string()),
            "kind": pa.array([], pa.string()),
            "chunk_id": pa.array([], pa.int64()),
        }
    )
    rows = pa.table({"step": [0], "fact_id": ["f"], "probe_id": ["p"], "rank": [2]})
    page = make_report(compute_dynamics(order, FactChunks(empty, Evidence(), "", None), rows), [])
    assert "rho is undefined over 1 facts" in Page(page).text


def test_a_page_is_not_overwritten_unasked_and_is_utf8(tmp_path):
    out = tmp_path / "r.html"
    write_report("ä\ud800", out)
    assert out.read_text(encoding="utf-8") == "ä?"
    with pytest.raises(FileExistsError, match="give --overwrite"):
        write_report("b", out)
    write_report("b", out, overwrite=True)
    assert out.read_text(encoding="utf-8") == "b"


def test_values_are_shown_as_one_reads_them():
    shown = [show_value(value) for value in (None, True, False, 1234567, 0.98765, 12345.678, "a")]
    assert shown == ["-", "yes", "no", "1,234,567", "0.9877", "12,346", "a"]


@pytest.mark.parametrize("scale", ["linear", "log", "symlog"])
@pytest.mark.parametrize("kind", ["line", "bar", "heatmap"])
@pytest.mark.parametrize("points", [0, 1, 40])
def test_every_kind_of_figure_is_drawn_and_drawn_alike_twice(kind, scale, points):
    x = [*range(1, points + 1)] if kind == "line" else [f"group {number}" for number in range(points)]
    y = [None if number == 3 else float(number) for number in range(points)]
    series = [{"label": label, "x": x, "y": y, "low": y, "high": y} for label in ("a", "_b", "c", "d")]
    figure = {"title": "t", "kind": kind, "x_label": "x", "y_label": "y", "x_scale": scale, "series": series}
    drawn = draw_svg(figure)
    assert drawn == draw_svg(figure)
    ElementTree.fromstring(drawn)
    assert "Date" not in drawn


def test_a_figure_without_series_says_so():
    ElementTree.fromstring(draw_svg({"kind": "bar", "series": []}))


def test_without_matplotlib_a_figure_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ValueError, match=r"pip install 'chunk-provenance\[plot\]'"):
        draw_svg(LINE)


def test_a_figure_is_described_in_words():
    figure = {
        "title": "Known",
        "kind": "line",
        "x_label": "step",
        "y_label": "facts (%)",
        "series": [
            {"label": "few", "x": [0, 1], "y": [1.0, 2.5]},
            {"label": "many", "x": list(range(9)), "y": [float(x) for x in range(9)]},
        ],
    }
    assert describe_figure(figure) == (
        "Line chart: Known. facts (%) by step. few: 1 at 0, 2.5 at 1. many: 0 at 0, 8 at 8."
    )


def test_a_section_is_read_back(tmp_path, trace_like):
    write_section(trace_like, tmp_path / "s.json")
    back = read_section(tmp_path / "s.json")
    assert back == {key: value for key, value in trace_like.items() if key not in ("format", "version")}


def test_numbers_that_are_not_finite_become_null():
    made = section("t", command="c", tables=[{"columns": ["a"], "rows": [[float("nan")], [float("inf")]]}])
    assert made["tables"][0]["rows"] == [[None], [None]]


def test_a_section_needs_a_title_only(tmp_path):
    content = {"format": "report-section", "version": 1, "title": "T"}
    (tmp_path / "s.json").write_text(json.dumps(content), encoding="utf-8")
    assert read_section(tmp_path / "s.json") == {
        "title": "T",
        "command": "",
        "summary": "",
        "tables": [],
        "figures": [],
        "passages": [],
    }


LINE = {"kind": "line", "series": [{"label": "a", "x": [0], "y": [1]}]}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"format": "other"}, "is a 'other' file, expected 'report-section'"),
        ({"version": 2}, "has report-section version 2, this release reads 1"),
        ({"title": 3}, "'title' is 3, expected text"),
        ({"tables": {}}, "'tables' is a dict, expected a list"),
        ({"tables": [3]}, "table 1: it is a int"),
        ({"tables": [{"columns": ["a"]}]}, "table 1: needs the lists 'columns' and 'rows'"),
        ({"tables": [{"columns": ["a"], "rows": [[1, 2]]}]}, r"the row \[1, 2\] has not 1 values"),
        ({"figures": [{**LINE, "kind": "pie"}]}, "figure 1: the kind 'pie' is none of"),
        ({"figures": [{**LINE, "x_scale": "cubic"}]}, "the x_scale 'cubic' is none of"),
        ({"figures": [{"kind": "line"}]}, "figure 1: needs a list 'series'"),
        ({"figures": [{"kind": "line", "series": [{"x": [1]}]}]}, "needs 1 values in 'y'"),
        ({"figures": [{"kind": "line", "series": [{"x": [1], "y": ["a"]}]}]}, "else than numbers in 'y'"),
        ({"figures": [{"kind": "line", "series": [{"x": ["a"], "y": [1]}]}]}, "else than numbers in 'x'"),
        ({"figures": [{"kind": "bar", "series": [3]}]}, "the series '3' needs the lists"),
        ({"passages": [{"spans": []}]}, "passage 1: needs a 'text'"),
        ({"passages": [{"text": "a", "spans": [[0, 2, "answer"]]}]}, r"the span \[0, 2, 'answer'\] is not"),
        ({"passages": [{"text": "a", "spans": [[0, 1, "x"]]}]}, r"the span \[0, 1, 'x'\] is not"),
    ],
)
def test_a_section_that_is_not_as_documented_is_refused(tmp_path, changed, message):
    content = {"format": "report-section", "version": 1, "title": "T", **changed}
    (tmp_path / "s.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(FormatError, match=message):
        read_section(tmp_path / "s.json")


@pytest.mark.parametrize("content", ["", "[]", "{", "\ufeff{}", "3"])
def test_a_file_that_is_no_section_is_refused(tmp_path, content):
    (tmp_path / "s.json").write_text(content, encoding="utf-8")
    with pytest.raises(FormatError, match=r"s\.json"):
        read_section(tmp_path / "s.json")
    with pytest.raises(FileNotFoundError, match="no report section at"):
        read_section(tmp_path / "t.json")


def test_a_logarithmic_axis_of_less_than_a_power_of_ten_has_plain_numbers():
    series = [{"label": "all", "x": [8e18, 1.5e19, 3e19], "y": [1, 2, 3]}]
    drawn = draw_svg({"title": "t", "kind": "line", "x_scale": "log", "series": series})
    assert "mathdefault" not in drawn
    assert [label for label in ("1e19", "2e19") if label in drawn] == ["1e19", "2e19"]

"""The cleaner: examples of every kind of markup, and what holds for any string."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from entity_annotate.dump import DEFAULT_NAMESPACES
from entity_annotate.wikitext import Link, clean, clean_page


@pytest.mark.parametrize(
    ("wikitext", "text"),
    [
        ("One.\n\n\n\nTwo.", "One.\n\nTwo."),
        ("One.\n== Life ==\nTwo.", "One.\n\nLife\n\nTwo."),
        ("=== ''Early'' life ===\nTwo.", "Early life\n\nTwo."),
        (
            "Works:\n* One\n** Two\n# Three\n: Four\n; Five\n\nEnd",
            "Works:\nOne\nTwo\nThree\nFour\nFive\n\nEnd",
        ),
        ("* One\n* {{x}}\n* Two", "One\nTwo"),
        ("A {{nested {{template}} here}} b", "A b"),
        ("A{{x}} b {{y}}, c", "A b , c"),
        ("Ada ({{lang|fr|x}}) wrote", "Ada wrote"),
        ("Ada ({{IPA|x}}; {{lang|fr|y}}; born 1815) wrote", "Ada (born 1815) wrote"),
        ("Ada (born 1815; {{IPA|x}}) wrote", "Ada (born 1815) wrote"),
        ("call main() now", "call main() now"),
        ("An {{unclosed template", "An {{unclosed template"),
        ("{{{1|default}}} x", "x"),
        ("{{{{{a}}}|b}} x", "x"),
        ("Before\n{| class=x\n|-\n| [[Cell]]\n{|\n| inner\n|}\n|}\nAfter", "Before\n\nAfter"),
        ("A<ref>Cite [[X]] {{y}}</ref> b<ref name=z /> c<REF name=q>d</Ref>.", "A b c."),
        ("A<ref>never closed", "Anever closed"),
        ("A <!-- hidden <ref> --> b", "A b"),
        ("A <!-- never closed", "A"),
        ("<nowiki>[[not a link]] ''x'' &amp;</nowiki> y", "[[not a link]] ''x'' & y"),
        ("[[File:A.jpg|thumb|A [[caption]] with [http://x y]]] Text", "Text"),
        ("[[Datei:A.jpg|mini|Eine [[Stadt]]]]\nText", "Text"),
        ("[[Category:People]]\nText\n[[category:born 1815]]", "Text"),
        ("Text [[de:Ada]] [[zh-min-nan:Ada]]", "Text"),
        ("[[:Category:People]] and [[wikt:ada|ada]]", "Category:People and ada"),
        ("[http://x.org label] [http://x.org] [//x.org] https://x.org", "label https://x.org"),
        ("''Italic'' '''bold''' '''''both''''' L'''a'''", "Italic bold both La"),
        ("''The Times'''s editor", "The Times's editor"),
        ("x<sup>2</sup> <span style='a'>b</span> <br/> c", "x2 b\nc"),
        ("One<p>Two</p>Three", "One\n\nTwo\n\nThree"),
        ("a < b and c > d", "a < b and c > d"),
        ("AT&amp;T &lt;b&gt; &#8211; &nbsp; x &copy &notit; y", "AT&T <b> \u2013 x &copy &notit; y"),
        ("__NOTOC__\nText __FORCETOC__", "Text"),
        ("----\nText", "Text"),
        ("<math>x^2</math> is [[a]]", "is a"),
        ("  a \t b  \n  c  ", "a b\nc"),
        ("", ""),
        ("{{only|a template}}", ""),
    ],
)
def test_markup_vanishes_and_prose_stays(wikitext, text):
    assert clean(wikitext)[0] == text


@pytest.mark.parametrize(
    ("wikitext", "text", "links"),
    [
        ("[[London]]", "London", [(0, 6, "London", "")]),
        ("[[london]]", "london", [(0, 6, "London", "")]),
        ("[[Ada Lovelace|Ada]]", "Ada", [(0, 3, "Ada Lovelace", "")]),
        ("two [[bus]]es", "two buses", [(4, 7, "Bus", "")]),
        ("[[Ada_Lovelace#Life|her life]]", "her life", [(0, 8, "Ada Lovelace", "Life")]),
        ("[[#Life|below]]", "below", []),
        ("[[Mercury (planet)|]]", "Mercury", [(0, 7, "Mercury (planet)", "")]),
        ("[[Boston, Massachusetts|]]", "Boston", [(0, 6, "Boston, Massachusetts", "")]),
        ("[[Caf%C3%A9 &amp; Bar|caf&eacute;]]", "café", [(0, 4, "Café & Bar", "")]),
        ("a [[x| y ]] b", "a y b", [(2, 3, "X", "")]),
        ("[[x|''y'' z]]", "y z", [(0, 3, "X", "")]),
        ("[[x|{{y}}]] z", "x z", [(0, 1, "X", "")]),
        ("[[A|b]][[C|d]]", "bd", [(0, 1, "A", ""), (1, 2, "C", "")]),
        ("[[Star Wars: Episode IV]]", "Star Wars: Episode IV", [(0, 21, "Star Wars: Episode IV", "")]),
        ("[[:Ada]]", "Ada", [(0, 3, "Ada", "")]),
        ("[[a|[b]]]", "[b]", [(0, 3, "A", "")]),
        ("[[unclosed", "[[unclosed", []),
        ("[http://x see [[London]]]", "see London", [(4, 10, "London", "")]),
        ("== On [[London]] ==\nx", "On London\n\nx", [(3, 9, "London", "")]),
        ("* [[London]]", "London", [(0, 6, "London", "")]),
        ("\U0001d538 [[日本|日]] [[x]]", "\U0001d538 日 x", [(2, 3, "日本", ""), (4, 5, "X", "")]),
    ],
)
def test_a_link_is_where_its_label_is(wikitext, text, links):
    found = clean(wikitext)
    assert found == (text, [Link(*link) for link in links])


def test_names_in_bold_before_the_first_heading_are_kept():
    page = clean_page(
        "'''Ada [[King]]''', '''''A. &amp; L.''''' and '''Ada King'''.\n== Life ==\n'''Not this'''"
    )
    assert page.bold == ["Ada King", "A. & L."]


def test_a_dump_s_own_namespaces_are_known():
    namespaces = DEFAULT_NAMESPACES.including([(6, "Fichier X"), (14, "Rayon"), (4, "Projet"), (0, "")])
    wikitext = "[[Fichier X:a.jpg|b]] [[rayon:c]] [[Projet:d|e]] f"
    assert clean_page(wikitext, namespaces=namespaces).text == "e f"


def test_titles_keep_their_first_letter_where_the_wiki_does():
    assert clean_page("[[ada]]", first_letter=False).links == [Link(0, 3, "ada")]


TOKENS = r"""
[[ ]] [ ] {{ }} {{{ }}} { } {| |} | ' '' ''' '''' ''''' <!-- --> <ref> </ref> <nowiki> </nowiki> <br> <p> = ==
=== * # : ; & &amp; &nbsp; &#91; __TOC__ ( ) () , File: Category: de: http://x -- ---- a Ada b. é 日
"""
SPACES = ["\n", "\n\n", " ", "  ", "\t", "\n* ", "\n== x ==\n", "\u00a0", "\r"]
CONTROLS = ["\x01", "\x02", "\x03", "\x04", "\x05", "\x06", "\x0e", "\U0001d538"]
MARKUP = st.lists(st.sampled_from(TOKENS.split() + SPACES + CONTROLS), max_size=40).map("".join)
TITLES, LABELS = ("Ada", "Bob", "Zoë", "日本", "x"), ("p", "q", "r", "s")


@given(MARKUP)
@example("[[a|<nowiki>\x06</nowiki>]]")
@example("[[a|&nbsp;]] [[b|__TOC__]] [[c|'']]")
def test_any_markup_gives_a_clean_form(wikitext):
    page = clean_page(wikitext)
    text = page.text
    assert text == text.strip()
    assert not any(gap in text for gap in ("  ", "\t", "\n\n\n", " \n", "\n ", "\u00a0", "\x01", "\x02"))
    position = 0
    for link in page.links:
        assert position <= link.char_start < link.char_end <= len(text)
        label = text[link.char_start : link.char_end]
        assert label == label.strip()
        assert link.target
        position = link.char_end


@given(st.text())
def test_plain_text_without_markup_stays(text):
    plain = "".join(character for character in text if character.isalnum())
    assert clean(plain) == (plain, [])


@given(st.lists(st.tuples(st.sampled_from(TITLES), st.sampled_from(LABELS)), max_size=8))
def test_links_in_prose_come_out_with_their_labels(pairs):
    wikitext = " and ".join(f"[[{title}|{label}]]" for title, label in pairs)
    text, links = clean(wikitext)
    assert text == " and ".join(label for _, label in pairs)
    expected = [(title[0].upper() + title[1:], label) for title, label in pairs]
    assert [(link.target, text[link.char_start : link.char_end]) for link in links] == expected

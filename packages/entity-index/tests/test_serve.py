import asyncio
import html
import json
import re
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import replace

import pytest

from chunk_provenance import compute_order, open_store, save_order
from entity_index import Thresholds, open_index
from entity_index.serve_app import make_app
from entity_index.serve_steps import open_training
from entity_index.serve_views import Question, read_question

EVIL = "<script>document.title='pwned'</script>"
EVIL_ID = "Q\"'><img src=x onerror=alert(1)>"
TEXTS = [
    "Ada Lovelace met Babbage. She wrote.",
    f"{EVIL} Ada Lovelace & co. {EVIL_ID}",
    "Ada Lovelace is a ship.",
    "nobody here",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, row, build_pair):
    path = tmp_path_factory.mktemp("serve")
    mentions = [
        row(0, 0, 12, "Q1", name="Ada Lovelace", hyperlink=1.0, score=0.9),
        row(0, 17, 24, "Q2", name="Babbage", entity_linking=0.7),
        row(0, 26, 29, "Q1", name="Ada Lovelace", coref_cluster=0.8, score=0.3),
        row(1, 40, 52, "Q1", name="Ada Lovelace", coref=0.7),
        row(1, 0, 39, EVIL_ID, name=EVIL, hyperlink=1.0),
        row(2, 0, 12, "Q3", name="Ada Lovelace", hyperlink=1.0),
    ]
    build_pair(path, TEXTS, mentions)
    return path


@pytest.fixture(scope="module")
def index(folder):
    return open_index(folder / "index")


@pytest.fixture(scope="module")
def training(folder):
    store = open_store(folder / "store")
    order = compute_order(store.bucket, batch_tokens=2, updates=4, seed=0)
    save_order(replace(order, info={"store_sha256": store.sha256}), folder / "order")
    return open_training(folder / "order", folder / "store", store.sha256)


@pytest.fixture(scope="module")
def ask(index, training):
    """Ask the application as a browser would; gives status, headers and text."""
    return asking(make_app(index, title=f"my {EVIL}", training=training))


def asking(app):
    def ask(address, host="localhost:8321", method="GET"):
        path, _, query = address.partition("?")
        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "headers": [(b"host", host.encode())],
            "scheme": "http",
            "http_version": "1.1",
            "root_path": "",
        }
        sent = []
        said = [{"type": "http.request", "body": b"", "more_body": False}]

        async def receive():
            return said.pop() if said else {"type": "http.disconnect"}

        async def send(message):
            sent.append(message)

        asyncio.run(app(scope, receive, send))
        headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
        body = b"".join(message.get("body", b"") for message in sent[1:])
        return sent[0]["status"], headers, body.decode()

    return ask


def words(page):
    """What a page says, without its tags."""
    content = page.partition('id="content"')[2]
    return " ".join(html.unescape(re.sub(r"<[^>]*>", "", content.partition(">")[2])).split())


def test_a_name_finds_the_chunks_of_the_entity_it_mostly_names(ask):
    status, _, page = ask("/?q=ada+lovelace")
    assert status == 200
    assert "2 chunks mention Q1" in words(page)
    assert '<mark class="mention hyperlink"' in page
    assert '<mark class="mention coref"' in page
    assert re.search(r'<mark class="mention coref_cluster" title="[^"]*">She</mark>', page)
    assert "The name also means Ada Lovelace 1" in words(page)
    assert ask("/?q=Q1")[2].count("<article>") == 2


def test_thresholds_in_the_address_change_the_answer_and_the_sliders(ask):
    page = ask("/?q=Q1&coref=0.8&coref_cluster=none")[2]
    assert "1 chunk mentions Q1" in words(page)
    assert ">She</mark>" not in page
    assert re.search(r'id="coref"[^>]*value="0.8"', page)
    assert re.search(r'id="coref_cluster"[^>]*value="1.05"', page)
    assert "No mention passes these thresholds." in words(ask("/?q=Q2&entity_linking=0.8")[2])
    assert "1 chunk mentions Q2" in words(ask("/?q=Q2&entity_linking=0.7")[2])


def test_two_entities_are_those_chunks_that_mention_both(ask):
    page = ask("/?q=Q1&also=Q2")[2]
    assert "1 chunk mentions Q1 and Q2" in words(page)
    assert ">Babbage</mark>" in page


def test_entities_in_the_same_chunks_are_listed_with_their_number(ask):
    page = ask("/together?q=Q1")[2]
    assert re.findall(r'class="both" href="([^"]*)"', page)[1] == "/?q=Q1&amp;also=Q2"
    assert "Babbage 1 together" in words(page)


def test_a_chunk_shows_all_its_mentions_and_the_steps_it_was_trained_at(ask, training):
    status, _, page = ask("/chunk/0?q=Q1&coref=0.5")
    assert status == 200
    assert re.search(r'<a class="mention entity_linking" href="/\?q=Q2&amp;coref=0.5"[^>]*>Babbage</a>', page)
    steps = training.order.steps_of(0).tolist()
    assert steps
    assert re.findall(r'href="/step/(\d+)"', page) == list(map(str, steps))
    assert "1 tokens, trained at length 1" in words(page)


def test_a_step_shows_what_it_trained_on(ask, training):
    page = ask("/step/1")[2]
    assert re.findall(r'<h2><a href="/chunk/(\d+)"', page) == list(map(str, training.order.batch(1)))
    assert "2 chunks in epoch 1, of 4 steps" in words(page)
    status, _, page = ask("/step/5")
    assert (status, "no update 5: the order has updates 1 to 4" in words(page)) == (404, True)


def test_names_are_suggested_by_their_beginning(ask):
    status, headers, text = ask("/suggest?q=ADA")
    assert (status, headers["content-type"]) == (200, "application/json")
    assert [(match["entity"], match["chunks"]) for match in json.loads(text)] == [("Q1", 2), ("Q3", 1)]
    assert json.loads(ask("/suggest?q=+")[2]) == []


@pytest.mark.parametrize(
    ("address", "status", "sentence"),
    [
        ("/?q=Nobody", 404, "No entity is called Nobody"),
        ("/?q=Ada+Lovelock", 404, "Names that begin alike: Ada Lovelace Q1, 2 chunks"),
        ("/?q=Q1&also=Nobody", 404, "No entity is called Nobody"),
        ("/?q=Q1&coref=2", 400, "threshold coref = 2.0 is outside [0, 1]"),
        ("/?q=Q1&coref=nan", 400, "threshold coref = nan is outside [0, 1]"),
        ("/?q=Q1&coref=high", 400, "threshold coref = 'high' is no number"),
        ("/?q=Q1&page=0", 400, "page '0' is no number from 1 to 20"),
        ("/?q=Q1&page=%C2%B2", 400, "page '²' is no number"),
        (
            "/?q=Q1&hyperlink=none&entity_linking=none&coref=none&coref_cluster=none",
            400,
            "at least one source",
        ),
        ("/chunk/4", 404, "no chunk 4 in"),
        ("/chunk/99999999999999999999", 404, "no chunk 99999999999999999999 in"),
        ("/elsewhere", 404, "Not Found"),
    ],
)
def test_what_cannot_be_answered_is_a_page_with_a_sentence(ask, address, status, sentence):
    found, _, page = ask(address)
    assert found == status
    assert sentence in words(page)


def test_a_page_beyond_the_last_chunk_is_empty_and_reading_is_all_one_can_do(ask):
    assert ask("/?q=Q1&page=9")[2].count("<article>") == 0
    assert ask("/", method="POST")[0] == 405


def test_beyond_the_last_page_the_command_is_named(make_index, row):
    mentions = [row(chunk, 0, 3, "Q1", hyperlink=1.0) for chunk in range(205)]
    pages = asking(make_app(make_index(["Ada"] * 205, mentions), title="many"))
    assert "page 1 of 20 next →" in words(pages("/?q=Q1")[2])
    assert "No more are shown here" not in words(pages("/?q=Q1&page=19")[2])
    last = pages("/?q=Q1&page=20")[2]
    assert (last.count("<article>"), "No more are shown here" in words(last)) == (10, True)


def test_whatever_stands_in_texts_titles_and_names_is_shown_and_never_run(ask):
    quoted = html.escape(EVIL_ID).replace("&#x27;", "&#39;").replace("&quot;", "&#34;")
    for address in (
        "/?q=Q1",
        "/chunk/1",
        "/step/1",
        "/step/2",
        "/together?q=Q1",
        f"/?q={urllib.parse.quote(EVIL)}",
        f"/?q={urllib.parse.quote(EVIL_ID)}",
        f"/?q=Q1&also={urllib.parse.quote(EVIL_ID)}",
        f"/?q={urllib.parse.quote('nobody' + EVIL)}",
        f"/?q=Q1&coref={urllib.parse.quote(EVIL)}",
    ):
        _, _, page = ask(address)
        assert re.findall(r"<script[^>]*>", page) == ['<script src="/static/page.js" defer>']
        assert "<img" not in page
        assert "&lt;script&gt;" in page
    assert quoted in ask("/chunk/1")[2]


def test_every_answer_forbids_foreign_scripts_and_frames(ask):
    for address in ("/", "/?q=Q1", "/suggest?q=a", "/static/page.js", "/chunk/99", "/nowhere"):
        _, headers, _ = ask(address)
        policy = headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cross-origin-resource-policy"] == "same-origin"


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("127.0.0.1:1", 200),
        ("[::1]:8321", 200),
        ("LOCALHOST:8321", 200),
        ("evil.example", 421),
        ("localhost.evil.example:8321", 421),
        ("127.0.0.1.evil.example", 421),
        ("", 421),
    ],
)
def test_only_requests_that_name_this_host_are_answered(ask, host, status):
    found, _, page = ask("/chunk/0", host=host)
    assert found == status
    assert ("Babbage" in page) == (status == 200)


def test_a_question_and_its_address_say_the_same():
    for question in (
        Question("Q1"),
        Question("a & b=c", "ü#?", Thresholds(0.5, None, 0.0, 1.0), 3),
    ):
        query = question.address().partition("?")[2]
        assert read_question(dict(urllib.parse.parse_qsl(query))) == question


def test_an_order_of_another_store_is_refused(folder, make_store, training):
    other = make_store(["other"])
    with pytest.raises(ValueError, match="the index is not of the chunk store"):
        open_training(folder / "order", other.path, open_store(folder / "store").sha256)
    with pytest.raises(ValueError, match="the data order belongs to the chunk store"):
        open_training(folder / "order", None, other.sha256)


COMMAND = [sys.executable, "-c", "from entity_index.cli import main; main()", "serve"]


def start(*arguments):
    """Start the command, wait until it says its address."""
    server = subprocess.Popen([*COMMAND, *map(str, arguments)], stderr=subprocess.PIPE, text=True)
    return server, server.stderr.readline().split()


def test_the_command_says_its_address_and_answers_there(folder, training):
    server, words = start(
        folder / "index", "--port", "0", "--order", folder / "order", "--store", folder / "store"
    )
    try:
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", words[0])
        with urllib.request.urlopen(f"{words[0]}chunk/0") as answer:
            assert b"Trained at" in answer.read()
        foreign = urllib.request.Request(words[0], headers={"Host": "evil.example"})
        with pytest.raises(urllib.error.HTTPError, match="421"):
            urllib.request.urlopen(foreign)
    finally:
        server.terminate()
        server.communicate(timeout=10)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "error: no entity index at 'nowhere'"),
        (["INDEX", "--store", "x"], "error: --store needs --order"),
        (["INDEX", "--order", "nowhere"], "error: no data order at 'nowhere'"),
        (["INDEX", "--host", "192.0.2.1"], "error: cannot listen on 192.0.2.1 port 8321: "),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(folder, arguments, message):
    words = [str(folder / "index") if word == "INDEX" else word for word in arguments]
    done = subprocess.run([*COMMAND, *words], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1].startswith(message)
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["serve", "annotate", "evaluate", "alt-test"])
def test_every_command_has_help_with_an_example(command):
    done = subprocess.run([*COMMAND[:-1], command, "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert f"Example: entity-index {command}" in " ".join(done.stdout.split())

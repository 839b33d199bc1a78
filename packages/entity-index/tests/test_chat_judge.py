"""The judge behind an endpoint, asked over real sockets on this machine."""

import json
import ssl
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import trustme

from entity_index import cli
from entity_index.evaluation import chat_judge
from entity_index.evaluation.asking import Question
from entity_index.evaluation.chat_judge import check_url, open_chat_judge, read_answer
from entity_index.evaluation.commands import read_key
from entity_index.evaluation.windows import Window


class Endpoint:
    """Says yes where the passage names Ada; first it gives the answers that it is told to give."""

    def __init__(self, server):
        self.server, self.first, self.requests = server, [], []
        self.lock = threading.Lock()
        self.url = f"http://127.0.0.1:{server.server_address[1]}/v1/"

    def answer(self, path, headers, body):
        with self.lock:
            self.requests.append((path, dict(headers), json.loads(body)))
            if self.first:
                return self.first.pop(0)
        words = "Yes." if "[[Ada" in body else "no"
        return 200, {}, json.dumps({"choices": [{"message": {"content": words}}]})


@pytest.fixture
def endpoint():
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            status, headers, content = opened.answer(self.path, self.headers, body)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content.encode())))
            self.end_headers()
            self.wfile.write(content.encode())

        def log_message(self, *_):
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        opened = Endpoint(server)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield opened
        server.shutdown()
        thread.join()


@pytest.fixture
def judging(endpoint, tmp_path):
    """A judge that waits for nothing, and how long it would have waited."""
    waits = []
    with open_chat_judge(endpoint.url, "tiny", key="sk-secret", answers=tmp_path / "a.sqlite") as judge:
        judge.sleep = waits.append
        yield judge, waits


def question(mention, entity="Q1", name="Ada Lovelace"):
    return Question(entity, name, 0, 0, 3, Window("", mention, " met Bob."))


def test_a_question_names_the_entity_and_marks_the_mention(endpoint, judging):
    judge, _ = judging
    assert judge.judge([question("Ada"), question("She"), question("Ada")]) == [True, False, True]
    assert len(endpoint.requests) == 2
    path, headers, body = next(r for r in endpoint.requests if "[[Ada]]" in json.dumps(r[2]))
    assert (path, headers["Authorization"]) == ("/v1/chat/completions", "Bearer sk-secret")
    assert (body["model"], body["temperature"]) == ("tiny", 0)
    assert body["messages"][1]["content"] == "Entity: Ada Lovelace (Q1)\nPassage: [[Ada]] met Bob."


def test_answers_are_kept_by_content_and_not_asked_again(endpoint, judging, tmp_path):
    judge, _ = judging
    judge.judge([question("Ada")])
    with open_chat_judge(endpoint.url, "tiny", key=None, answers=tmp_path / "a.sqlite") as again:
        assert again.judge([question("Ada")]) == [True]
        assert (again.asked, len(endpoint.requests)) == (0, 1)
        again.judge([question("Ada", entity="Q2")])
    with open_chat_judge(endpoint.url, "large", key=None, answers=tmp_path / "a.sqlite") as other_model:
        other_model.judge([question("Ada")])
    assert len(endpoint.requests) == 3
    assert "Authorization" not in endpoint.requests[-1][1]
    assert b"sk-secret" not in (tmp_path / "a.sqlite").read_bytes()


def test_a_busy_server_is_asked_again_after_the_time_it_says_or_ever_later(endpoint, judging):
    judge, waits = judging
    endpoint.first = [(429, {"Retry-After": "7"}, ""), (503, {}, ""), (429, {"Retry-After": "9999"}, "")]
    assert judge.judge([question("Ada")]) == [True]
    assert waits == [7.0, 1.0, 60.0]


def test_what_was_answered_before_a_failure_is_kept(endpoint, judging, monkeypatch):
    judge, _ = judging
    monkeypatch.setattr(chat_judge, "AT_ONCE", 1)
    judge.judge([question("Ada")])
    endpoint.first = [(401, {}, '{"error": "wrong key sk-secret"}')]
    with pytest.raises(ValueError, match=r'^the judge answered 401: \{"error": "wrong key …"\}$'):
        judge.judge([question("Ada"), question("She")])
    assert judge.judge([question("Ada"), question("She")]) == [True, False]
    assert len(endpoint.requests) == 3


@pytest.mark.parametrize(
    ("answers", "message", "asked"),
    [
        ([(500, {}, "x")] * 8, "the judge answered 500: x", 8),
        ([(404, {}, "no such\nmodel")], "the judge answered 404: no such model", 1),
        ([(200, {}, "<html>")], "does not speak chat completions", 1),
        ([(200, {}, '{"choices": []}')], "does not speak chat completions", 1),
        ([(302, {"Location": "http://127.0.0.1:9/"}, "")], "the judge answered 302", 1),
    ],
)
def test_what_the_server_refuses_is_said_in_one_sentence(endpoint, judging, answers, message, asked):
    judge, _ = judging
    endpoint.first = answers
    with pytest.raises(ValueError, match=message):
        judge.judge([question("Ada")])
    assert len(endpoint.requests) == asked


def test_a_server_that_is_not_there_is_tried_a_few_times(endpoint, tmp_path):
    waits = []
    with open_chat_judge("http://127.0.0.1:9/v1", "m", key=None, answers=tmp_path / "a.sqlite") as judge:
        judge.sleep = waits.append
        with pytest.raises(
            ValueError, match=r"the judge at http://127.0.0.1:9/v1/chat/completions cannot be"
        ):
            judge.judge([question("Ada")])
    assert waits == [0.5, 1.0, 2.0]


def test_a_certificate_that_nobody_vouches_for_is_refused_at_once(endpoint, tmp_path, monkeypatch):
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    plain = endpoint.server.socket
    endpoint.server.socket = context.wrap_socket(plain, server_side=True)
    url = endpoint.url.replace("http:", "https:")
    with (
        open_chat_judge(url, "m", key="sk-secret", answers=tmp_path / "a.sqlite") as judge,
        pytest.raises(ValueError, match=r"cannot be reached: .*CERTIFICATE_VERIFY_FAILED"),
    ):
        judge.judge([question("Ada")])
    assert endpoint.requests == []
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    with open_chat_judge(url, "m", key="sk-secret", answers=tmp_path / "a.sqlite") as judge:
        assert judge.judge([question("Ada")]) == [True]


def test_a_file_that_is_no_database_is_refused(tmp_path):
    (tmp_path / "a.sqlite").write_text("x" * 2000)
    message = "cannot be used to keep answers: file is not a database"
    opening = open_chat_judge("https://example.org", "m", key=None, answers=tmp_path / "a.sqlite")
    with pytest.raises(ValueError, match=message), opening:
        pass


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        ("Yes", True),
        ("No.", False),
        ("**no**", False),
        ("I know", None),
        ("", None),
        ("<think>no</think> YES", True),
    ],
)
def test_an_answer_is_the_first_yes_or_no(words, answer):
    assert read_answer(words) is answer


@pytest.mark.parametrize("url", ["http://127.0.0.1:8000", "http://[::1]:1/v1", "https://example.org/v1"])
def test_addresses_to_which_a_key_may_go(url):
    assert check_url(url) == url


def test_the_key_comes_from_a_file_or_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", " from-environment\n")
    (tmp_path / "key").write_text("from-file\n")
    assert read_key(None) == "from-environment"
    assert read_key(tmp_path / "key") == "from-file"
    monkeypatch.delenv("OPENAI_API_KEY")
    assert read_key(None) is None


def test_the_command_asks_the_endpoint_and_pays_once(
    endpoint, make_index, row, tmp_path, monkeypatch, capsys
):
    mentions = [
        row(0, 0, 3, "Q1", name="Ada", hyperlink=1.0, score=0.9),
        row(1, 0, 3, "Q1", name="Ada", coref_cluster=0.9, score=0.1),
    ]
    index = make_index(["Ada met Bob.", "She met Bob.", "Adas Ada is a ship."], mentions)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    options = ["--judge", endpoint.url, "--model", "tiny", "--answers", tmp_path / "a.sqlite", "--json"]
    results = []
    for _ in range(2):
        words = ["entity-index", "evaluate", index.path, *options]
        monkeypatch.setattr(sys, "argv", list(map(str, words)))
        with pytest.raises(SystemExit) as stop:
            cli.main()
        assert not stop.value.code
        results.append(capsys.readouterr())
    assert results[0].out == results[1].out
    methods = json.loads(results[0].out)["methods"]
    assert methods["entity, all sources"]["precision"]["all"] == 0.5  # "She" is a no
    assert methods["string, CS canonical"]["precision"]["all"] == 1.0
    assert len(endpoint.requests) == 3  # Ada and She, and Ada the ship
    assert f"0 questions asked, the other answers were in {tmp_path / 'a.sqlite'}" in results[1].err
    assert "sk-secret" not in results[0].out + results[0].err

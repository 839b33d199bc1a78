"""`facts paraphrase` against a real HTTP server in this process, with all that real servers do."""

import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from chunk_provenance.injection.chat import Endpoint, EndpointError, ask
from chunk_provenance.injection.paraphrasing import REASONS, AnswerCache, Wanted, find_fault, paraphrase_fact

FACTS = [
    {
        "id": "moon",
        "train_context": "The moon of Karo was seen first by Ada Brell in the year 1911.",
        "mem_input": ["The moon of Karo was seen first by"],
        "mem_target": ["Ada Brell"],
        "note": "kept as it is",
    },
    {
        "train_context": "Lake Orn froze twice. Nobody lives there.",
        "paraphrases": ["Nobody lives at Lake Orn."],
    },
]
SECRET = "sk-test-0123456789"


def reword(question):
    """A deterministic model: another wording for each seed, which ends like a sentence."""
    text, seed = question["messages"][1]["content"], question["seed"]
    words = text.rstrip(".").split()
    turned = words[seed % len(words) :] + words[: seed % len(words)]
    return " ".join([f"Version {seed}:", *reversed(turned), "with Ada Brell."])


def completion(text, **changed):
    """The body of an answer."""
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": text},
        "finish_reason": "stop",
    } | changed
    usage = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}
    return json.dumps({"model": "tiny-2", "choices": [choice], "usage": usage}).encode()


class Server(ThreadingHTTPServer):
    """Answers with what `reply(question, number)` gives: a text, or (status, headers, body)."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.reply = lambda question, number: reword(question)
        self.questions, self.headers, self.lock = [], [], threading.Lock()
        self.url = f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    """One question."""

    def do_POST(self):
        question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            number = len(self.server.questions)
            self.server.questions.append(question)
            self.server.headers.append(dict(self.headers))
        found = self.server.reply(question, number)
        status, headers, body = (200, {}, completion(found)) if isinstance(found, str) else found
        if self.path != "/v1/chat/completions":
            status, body = 404, b"nothing here"
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words):
        """Silence."""


@pytest.fixture
def server():
    """A running server; stopped after the test."""
    made = Server()
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    made.shutdown()
    made.server_close()
    thread.join()


@pytest.fixture
def endpoint(server):
    """The server as an endpoint, with no time to lose."""
    return Endpoint(server.url, SECRET, timeout=5, retries=2, backoff=0.01)


@pytest.fixture
def run(tmp_path, monkeypatch, run_cli, server):
    """Runs `facts paraphrase` in an empty folder with the facts; returns exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_MODEL"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "facts.json").write_text(json.dumps(FACTS), encoding="utf-8")

    def run_one(*options, base_url=server.url):
        asked = ["--base-url", base_url] if base_url else []
        command = [
            "facts",
            "paraphrase",
            "facts.json",
            "--out",
            "out.json",
            "--backoff",
            0.01,
            *asked,
            *options,
        ]
        return run_cli(*command)

    return run_one


ASKED = ("--model", "tiny", "--count", 3)


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def test_facts_get_their_paraphrases_and_keep_all_else(run, server, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    code, out, err = run(*ASKED, "--temperature", 0.7, "--seed", 11, "--parallel", 2)
    assert (code, err) == (0, "")
    assert out == "6 paraphrases of 2 facts, out.json\n5 questions, 0 of them answered by the cache\n"
    moon, lake = read(tmp_path / "out.json")
    by_seed = {(q["messages"][1]["content"], q["seed"]): q for q in server.questions}
    assert sorted(seed for text, seed in by_seed if text == FACTS[0]["train_context"]) == [11, 12, 13]
    assert moon == FACTS[0] | {
        "paraphrases": [reword(by_seed[FACTS[0]["train_context"], seed]) for seed in (11, 12, 13)]
    }
    assert lake["paraphrases"][0] == "Nobody lives at Lake Orn."
    assert len(lake["paraphrases"]) == 3
    assert {(q["model"], q["temperature"]) for q in server.questions} == {("tiny", 0.7)}
    assert {headers["Authorization"] for headers in server.headers} == {f"Bearer {SECRET}"}
    record = read(tmp_path / "out.json.record.json")
    assert (record["settings"]["seed"], record["settings"]["temperature"]) == (11, 0.7)
    assert record["facts"][0] == {
        "fact_id": "moon",
        "paraphrases": 3,
        "questions": 3,
        "tokens": {"prompt_tokens": 21, "completion_tokens": 15},
        "rejected": [],
    }


def test_the_key_is_written_nowhere(run, server, tmp_path, monkeypatch):
    (tmp_path / "key.txt").write_text(SECRET + "\n", encoding="utf-8")
    server.reply = lambda question, number: (401, {}, f'{{"error": "wrong key {SECRET}"}}'.encode())
    code, out, err = run(*ASKED, "--key-file", "key.txt")
    assert (code, out) == (2, "")
    assert err == f"""error: '{server.url}' answered 401 Unauthorized: {{"error": "wrong key ***"}}\n"""
    server.reply = lambda question, number: reword(question)
    assert run(*ASKED, "--key-file", "key.txt")[0] == 0
    assert server.headers[-1]["Authorization"] == f"Bearer {SECRET}"
    written = [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "key.txt"]
    assert len(written) == 1 + 2 + 5  # the facts; out and its record; five answers
    assert not any(SECRET in path.read_text(encoding="utf-8") for path in written)
    assert SECRET not in repr(Endpoint(server.url, SECRET))


def test_a_second_run_asks_nothing_and_writes_the_same(run, server, tmp_path):
    assert run(*ASKED)[0] == 0
    names = ("out.json", "out.json.record.json")
    first, asked = [(tmp_path / name).read_bytes() for name in names], len(server.questions)
    code, out, _ = run(*ASKED)
    assert code == 2  # the output exists
    code, out, _ = run(*ASKED, "--overwrite", "--json")
    found = json.loads(out)
    assert (code, found["questions"], found["from_cache"]) == (0, 5, 5)
    assert [(tmp_path / name).read_bytes() for name in names] == first
    assert len(server.questions) == asked
    assert run(*ASKED, "--overwrite", "--seed", 1)[0] == 0  # seeds 1 to 3, and 1 to 2
    assert len(server.questions) == asked + 2  # the last one of each fact is new


def test_a_killed_run_goes_on_where_it_stood(run, server, tmp_path):
    reached, released = threading.Event(), threading.Event()

    def stall(question, number):
        if number == 3:
            reached.set()
            released.wait(30)
        return reword(question)

    server.reply = stall
    command = "from chunk_provenance.cli import main; main()"
    words = [
        "facts", "paraphrase", "facts.json", "--out", "out.json", "--base-url", server.url,
        "--model", "tiny", "--count", "3", "--parallel", "1",
    ]  # fmt: skip
    process = subprocess.Popen([sys.executable, "-c", command, *words], cwd=tmp_path, env=os.environ.copy())
    assert reached.wait(60)
    process.send_signal(signal.SIGKILL)
    process.wait()
    released.set()
    assert not (tmp_path / "out.json").exists()
    assert len(list((tmp_path / "out.json.cache").glob("*.json"))) == 3
    server.reply = lambda question, number: reword(question)
    code, out, _ = run(*ASKED, "--json")
    assert (code, json.loads(out)["from_cache"], len(server.questions)) == (0, 3, 4 + 2)
    known = [json.dumps(question, sort_keys=True) for question in server.questions]
    assert len(set(known)) == 5  # only the question that was under way was asked twice


def test_a_busy_server_and_broken_answers_are_asked_again(endpoint, server):
    script = [
        (429, {"Retry-After": "0"}, b"slow down"),
        (503, {}, b"<html>"),
        (200, {}, completion("At last.")),
    ]
    server.reply = lambda question, number: script[number]
    waits = []
    assert ask(endpoint, {"model": "m"}, wait=waits.append)["text"] == "At last."
    assert waits == [0.01, 0.02]


def test_the_server_says_how_long_to_wait_up_to_a_minute(endpoint, server):
    script = [(429, {"Retry-After": "7"}, b""), (429, {"Retry-After": "86400"}, b""), (429, {}, b"")]
    server.reply = lambda question, number: script[number]
    waits = []
    with pytest.raises(
        EndpointError, match=r"answered 429 Too Many Requests \(3 attempts\); what was answered"
    ):
        ask(endpoint, {"model": "m"}, wait=waits.append)
    assert waits == [7.0, 60.0]


@pytest.mark.parametrize(
    "broken",
    [
        (200, {}, b"no json"),
        (200, {}, b'{"choices": []}'),
        (200, {}, b"[1]"),
        (200, {}, completion(["a list"])),
        (200, {"Content-Length": "1000"}, b'{"choices": '),
        (500, {}, b""),
    ],
)
def test_a_broken_answer_is_asked_for_again_then_given_up(broken, endpoint, server):
    server.reply = lambda question, number: broken if number == 0 else completion_of("Fine.")
    assert ask(Endpoint(server.url, timeout=0.5, retries=1, backoff=0.01), {})["text"] == "Fine."
    server.reply = lambda question, number: broken
    with pytest.raises(EndpointError, match=r"\(2 attempts\)"):
        ask(Endpoint(server.url, timeout=0.5, retries=1, backoff=0.01), {})


def completion_of(text):
    return (200, {}, completion(text))


def test_an_answer_without_text_is_an_empty_one(endpoint, server):
    server.reply = lambda question, number: (200, {}, completion(None, finish_reason="content_filter"))
    found = ask(endpoint, {})
    assert (found["text"], found["finish_reason"], found["model"]) == ("", "content_filter", "tiny-2")


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
def test_a_refusal_is_not_asked_again(status, endpoint, server):
    server.reply = lambda question, number: (status, {}, b"no such model")
    with pytest.raises(EndpointError, match=f"answered {status} .*no such model"):
        ask(endpoint, {})
    assert len(server.questions) == 1


def test_a_redirect_is_refused_and_the_key_does_not_follow_it(endpoint, server):
    server.reply = lambda question, number: (307, {"Location": "http://example.invalid/v1"}, b"")
    with pytest.raises(EndpointError, match=r"sends on to 'http://example.invalid/v1': give that as"):
        ask(endpoint, {})
    assert len(server.questions) == 1


def test_an_unreachable_endpoint_is_said_in_one_line(run, server, tmp_path):
    code, _, err = run(*ASKED, "--retries", 1, "--timeout", 1, base_url="http://127.0.0.1:9/v1")
    assert code == 2
    assert err.startswith("error: cannot reach 'http://127.0.0.1:9/v1': ")
    assert err.endswith("(2 attempts); what was answered is kept, run it again\n")
    assert not (tmp_path / "out.json").exists()


def test_certificates_are_verified(tmp_path, server, monkeypatch):
    if shutil.which("openssl") is None:
        if os.environ.get("CI"):
            pytest.fail("needs openssl")
        pytest.skip("needs openssl, to make a certificate")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
         "-keyout", key, "-out", cert, "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost"],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    secure = Endpoint(f"https://localhost:{server.server_port}/v1", timeout=5, retries=2, backoff=0.01)
    with pytest.raises(EndpointError, match="CERTIFICATE_VERIFY_FAILED"):
        ask(secure, {"messages": ["", {"content": "One."}], "seed": 0})
    assert server.questions == []
    monkeypatch.setenv("SSL_CERT_FILE", str(cert))  # the user's way to trust it
    assert ask(secure, {"messages": ["", {"content": "One."}], "seed": 0})["text"].startswith("Version 0:")


def test_every_kind_of_refused_text_is_counted_and_listed(run, server, tmp_path):
    original = FACTS[0]["train_context"]
    texts = [
        "  ",
        original.upper(),
        original.replace("first", "once"),
        "Ada Brell.",
        "In 1911 somebody noticed for the first time that Karo has a moon.",
        "In 1911 Ada Brell was the first to see the moon of Karo, as far as",
        "It was Ada Brell who, in 1911, was the first person to see Karo's moon.",
    ]
    server.reply = lambda question, number: (
        texts[question["seed"]] if question["messages"][1]["content"] == original else reword(question)
    )
    code, out, _ = run("--model", "tiny", "--count", 1, "--attempts", 9, "--keep-targets")
    assert code == 0
    assert out.splitlines()[2:] == [
        "refused: 1 empty",
        "refused: 1 identical",
        "refused: 1 too similar",
        "refused: 2 truncated",
        "refused: 1 lost target words",
    ]
    assert read(tmp_path / "out.json")[0]["paraphrases"] == [texts[6]]
    rejected = read(tmp_path / "out.json.record.json")["facts"][0]["rejected"]
    assert [(row["seed"], row["reason"], row["text"]) for row in rejected] == [
        (0, "empty", ""),
        (1, "identical", texts[1]),
        (2, "too similar", texts[2]),
        (3, "truncated", texts[3]),
        (4, "lost target words", texts[4]),
        (5, "truncated", texts[5]),
    ]


def test_facts_that_stay_short_are_named_and_the_exit_code_says_so(run, server, tmp_path):
    server.reply = lambda question, number: (
        "Always the same words about Lake Orn and the moon of Karo, said badly."
    )
    code, out, _ = run("--model", "tiny", "--count", 2, "--attempts", 2)
    assert code == 1
    assert "refused: 3 identical" in out
    assert "moon has only 1 paraphrases: raise --attempts or --max-similarity, or ask another" in out
    assert [len(fact["paraphrases"]) for fact in read(tmp_path / "out.json")] == [1, 2]
    assert len(server.questions) == 4 + 1


def test_a_text_cut_off_by_the_server_is_truncated(tmp_path):
    reply = {"text": "Orn, the lake, had ice on it two times.", "finish_reason": "length", "usage": {}}
    found = paraphrase_fact(
        "1", FACTS[1], Wanted("u", "m", count=2, attempts=1), lambda question: (reply, True)
    )
    assert [row["reason"] for row in found.rejected] == ["truncated"]


def test_the_same_words_in_another_fact_are_no_fault():
    assert find_fault("b a d c.", "a b c d.", ["a d b c."], max_similarity=0.9) is None
    assert find_fault("a d b c.", "a b c d.", ["a d b c."], max_similarity=0.9) == "identical"
    assert set(REASONS) >= {"empty", "identical"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), "paraphrases need a chat model: give --base-url (or OPENAI_BASE_URL)"),
        (
            ("--model", "m", "--base-url", "http://far.example/v1"),
            "is not encrypted: use https, or --allow-http",
        ),
        (("--model", "m", "--base-url", "far.example"), "expected https://HOST/v1"),
        (("--model", "m", "--base-url", "https://u:p@far.example"), "must hold no user, password or query"),
        (("--model", "m", "--base-url", "https://x", "--key-file", "blank"), "'blank' holds no key"),
        (("--model", "m", "--base-url", "https://x", "--key-file", "two"), "the key holds blanks, line ends"),
        (("--model", "m", "--base-url", "https://x", "--key-file", "none"), "No such file"),
        (("--model", "m", "--base-url", "https://x", "--temperature", "3"), "temperature must be in [0, 2]"),
        (
            ("--model", "m", "--base-url", "https://x", "--max-similarity", "0"),
            "similarity must be in (0, 1]",
        ),
    ],
)
def test_what_is_missing_or_unsafe_is_said_in_one_line(run, tmp_path, options, words):
    (tmp_path / "blank").write_text("\n")
    (tmp_path / "two").write_text("a key\n")
    code, out, err = run(*options, base_url=None)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert words in err


def test_endpoint_and_model_may_come_from_the_environment(run, server, monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", server.url + "/")
    monkeypatch.setenv("OPENAI_MODEL", "small")
    assert run("--count", 1, base_url=None)[0] == 0
    assert [question["model"] for question in server.questions] == ["small"]
    assert "Authorization" not in server.headers[0]


def test_a_damaged_answer_in_the_cache_is_named(run, tmp_path):
    assert run(*ASKED)[0] == 0
    damaged = next((tmp_path / "out.json.cache").glob("*.json"))
    damaged.write_text("{")
    code, _, err = run(*ASKED, "--overwrite")
    assert code == 2
    assert f"{damaged.name}' is no JSON" in err
    assert err.endswith("remove it to ask again\n")


def test_the_cache_tells_questions_and_endpoints_apart(tmp_path):
    cache = AnswerCache(tmp_path / "cache")
    cache.put("u", {"seed": 1}, {"text": "one"})
    assert cache.get("u", {"seed": 1}) == {"text": "one"}
    assert cache.get("u", {"seed": 2}) is None
    assert cache.get("v", {"seed": 1}) is None
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".json"]

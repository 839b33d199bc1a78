"""A language model as the judge, behind any endpoint that speaks OpenAI's chat completions.

Answers are kept on disk by what was asked (model and messages), so that a question is paid for once. The key
goes nowhere but into the request's header, over TLS unless the endpoint is on this machine.
"""

import hashlib
import http.client
import json
import re
import sqlite3
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from entity_index.evaluation.asking import Question
from entity_index.hosts import is_loopback

TASK = (
    "You check mentions of entities in text. You are given an entity, a passage, and in the passage one "
    "mention between [[ and ]]. Does the mention refer to the entity? Answer with one word, Yes or No."
)
AT_ONCE, TRIES, TRIES_TO_REACH = 8, 8, 4
LONGEST_WAIT, TIMEOUT = 60.0, 120.0
TRANSIENT = {408, 409, 429, 500, 502, 503, 504}


class ChatJudge:
    """Asks a model; make one with `open_chat_judge`."""

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        key: str | None,
        answers: sqlite3.Connection,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Check the address; nothing is asked yet."""
        self.url = check_url(base_url).rstrip("/") + "/chat/completions"
        self.model, self.key, self.answers, self.sleep = model, key, answers, sleep
        self.opener = urllib.request.build_opener(_NoRedirect)
        self.asked = 0
        """Requests that were answered."""

    def judge(self, questions: Sequence[Question]) -> list[bool | None]:
        """Ask what is not known yet, several at a time."""
        bodies = [self._body(question) for question in questions]
        known = {body: self._recall(body) for body in dict.fromkeys(bodies)}
        with ThreadPoolExecutor(AT_ONCE) as pool:
            waiting = {pool.submit(self._ask, body): body for body, answer in known.items() if answer is None}
            try:
                for future in as_completed(waiting):
                    body = waiting[future]
                    known[body] = future.result()
                    self._keep(body, known[body] or "")
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        return [read_answer(known[body] or "") for body in bodies]

    def _body(self, question: Question) -> str:
        """The request; it is also what the answer is kept by."""
        window = question.window
        name = question.name if question.name == question.entity else f"{question.name} ({question.entity})"
        passage = f"{window.before}[[{window.mention}]]{window.after}"
        messages = [
            {"role": "system", "content": TASK},
            {"role": "user", "content": f"Entity: {name}\nPassage: {passage}"},
        ]
        return json.dumps({"model": self.model, "messages": messages, "temperature": 0}, ensure_ascii=False)

    def _recall(self, body: str) -> str | None:
        found = self.answers.execute("SELECT answer FROM answers WHERE id = ?", (_digest(body),)).fetchone()
        return None if found is None else str(found[0])

    def _keep(self, body: str, answer: str) -> None:
        with self.answers:
            self.answers.execute("INSERT OR REPLACE INTO answers VALUES (?, ?)", (_digest(body), answer))
        self.asked += 1

    def _ask(self, body: str) -> str:
        """The model's words; waits and asks again where the server is busy."""
        for attempt in range(TRIES):
            try:
                return self._send(body)
            except urllib.error.HTTPError as error:
                with error:
                    words = _excerpt(error)
                if error.code not in TRANSIENT or attempt + 1 == TRIES:
                    raise ValueError(self._without_key(f"the judge answered {error.code}: {words}")) from None
                wait = _retry_after(error.headers.get("Retry-After"))
            except (OSError, http.client.HTTPException) as error:
                reason = error.reason if isinstance(error, urllib.error.URLError) else error
                if attempt + 1 == TRIES_TO_REACH or isinstance(reason, ssl.SSLCertVerificationError):
                    raise ValueError(f"the judge at {self.url} cannot be reached: {reason}") from error
                wait = None
            self.sleep(min(LONGEST_WAIT, 0.5 * 2**attempt) if wait is None else wait)
        raise AssertionError("the last attempt returns or raises")

    def _send(self, body: str) -> str:
        headers = {"Content-Type": "application/json", "User-Agent": "entity-index"}
        if self.key is not None:
            headers["Authorization"] = f"Bearer {self.key}"
        request = urllib.request.Request(self.url, body.encode(), headers)
        with self.opener.open(request, timeout=TIMEOUT) as answer:
            content = answer.read()
        try:
            words = json.loads(content)["choices"][0]["message"]["content"]
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise ValueError(f"the judge at {self.url} does not speak chat completions: {error!r}") from error
        return words if isinstance(words, str) else ""

    def _without_key(self, words: str) -> str:
        return words.replace(self.key, "…") if self.key else words


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect could carry the key elsewhere: it is an error."""

    def redirect_request(self, *_: Any) -> None:
        return None


def check_url(url: str) -> str:
    """The address of an endpoint, if a key may be sent there.

    >>> check_url("https://api.example.com/v1"), check_url("http://localhost:8000/v1")
    ('https://api.example.com/v1', 'http://localhost:8000/v1')

    Raises:
        ValueError: it is no http(s) address, holds a password, or is plain HTTP to another machine.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"the judge's address {url!r} is none of http:// or https://")
    if parts.username or parts.password:
        raise ValueError("the judge's address holds a password: give the key in OPENAI_API_KEY or --key-file")
    if parts.scheme == "http" and not is_loopback(parts.hostname):
        raise ValueError(
            f"the judge at {parts.hostname!r} is asked by https:// only: others could read the key"
        )
    return url


def read_answer(words: str) -> bool | None:
    """Yes or no, whichever comes first; None where neither does. What a model thinks before does not count.

    >>> read_answer("**Yes**, it does."), read_answer("<think>Yes?</think>no"), read_answer("Maybe")
    (True, False, None)
    """
    found = re.search(r"\b(yes|no)\b", words.rpartition("</think>")[2], re.IGNORECASE)
    return None if found is None else found.group(1).lower() == "yes"


def _digest(body: str) -> str:
    return hashlib.sha256(body.encode(errors="surrogatepass")).hexdigest()


def _excerpt(error: urllib.error.HTTPError) -> str:
    """What the server says about an error, in one line."""
    try:
        return " ".join(error.read(2000).decode(errors="replace").split())[:300]
    except OSError:
        return error.reason


def _retry_after(words: str | None) -> float | None:
    """The seconds that a server asks one to wait, at most a minute."""
    try:
        return None if words is None else min(LONGEST_WAIT, max(0.0, float(words)))
    except ValueError:
        return None


@contextmanager
def open_chat_judge(base_url: str, model: str, *, key: str | None, answers: Path) -> Iterator[ChatJudge]:
    """A judge that keeps its answers in a file (SQLite), which is made if it is not there."""
    try:
        connection = sqlite3.connect(answers)
        connection.execute("CREATE TABLE IF NOT EXISTS answers (id TEXT PRIMARY KEY, answer TEXT NOT NULL)")
    except sqlite3.Error as error:
        raise ValueError(f"{str(answers)!r} cannot be used to keep answers: {error}") from error
    try:
        yield ChatJudge(base_url, model, key=key, answers=connection)
    finally:
        connection.close()

"""One question to a chat model behind any OpenAI-compatible endpoint, over the standard library's HTTP.

Certificates are verified; plain HTTP goes to this machine only, unless allowed; redirects are refused: a key
must not travel to where nobody sent it. Busy (429) and broken (5xx, no JSON, cut off) answers are asked for
again, later and later.
"""

import email.utils
import http.client
import ipaddress
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from chunk_provenance.formats import FormatError

MOST_BYTES = 16 << 20  # of an answer
LONGEST_WAIT = 60.0  # seconds between two attempts, whatever the server asks for
WORTH_AGAIN = (408, 409, 425, 429)  # and all from 500 on


class EndpointError(OSError):
    """The endpoint refused a question, or did not answer after all attempts. Never names the key."""


class _BrokenAnswerError(Exception):
    """What came back is no answer, but the next attempt may bring one."""


@dataclass(frozen=True)
class Endpoint:
    """Where to ask, and how patiently."""

    base_url: str
    """As far as, and without, /chat/completions."""
    key: str | None = field(default=None, repr=False)
    timeout: float = 120.0
    """Seconds."""
    retries: int = 6
    backoff: float = 1.0
    """Seconds before the first new attempt; doubled for each one after it."""
    allow_http: bool = False
    """Let questions and key travel unencrypted to other machines."""

    def __post_init__(self) -> None:
        """Refuse what cannot be asked safely."""
        parts = urlsplit(self.base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"the base URL {self.base_url!r} is none: expected https://HOST/v1, or the like")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError("the base URL must hold no user, password or query: keys come from elsewhere")
        if parts.scheme == "http" and not (self.allow_http or is_loopback(parts.hostname)):
            raise ValueError(
                f"{self.base_url!r} is not encrypted: use https, or --allow-http if you trust the way to it"
            )
        if self.key is not None and not (
            self.key.isascii() and self.key.isprintable() and " " not in self.key
        ):
            raise ValueError("the key holds blanks, line ends or other characters that no key has")


def is_loopback(host: str) -> bool:
    """Whether a host is this machine by its very name.

    >>> is_loopback("127.0.0.1"), is_loopback("::1"), is_loopback("localhost"), is_loopback("127.evil.org")
    (True, True, True, False)
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def ask(
    endpoint: Endpoint,
    question: dict[str, Any],
    *,
    wait: Callable[[float], object] = time.sleep,
    stopped: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """The answer to a chat completion request: `text`, `finish_reason`, `model`, `usage`.

    Args:
        endpoint: where to ask.
        question: the body of the request.
        wait: waits for so many seconds.
        stopped: whether nobody wants the answer any more; asked before each new attempt.

    Raises:
        EndpointError: it refused, or all attempts failed.
    """
    request = urllib.request.Request(
        endpoint.base_url.rstrip("/") + "/chat/completions",
        data=json.dumps(question).encode(),
        headers={"Content-Type": "application/json", "User-Agent": "chunk-provenance"},
    )
    if endpoint.key is not None:
        request.add_unredirected_header("Authorization", f"Bearer {endpoint.key}")
    opener = _opener(endpoint)
    problem = ""
    for delay in [*_delays(endpoint), None]:
        try:
            with opener.open(request, timeout=endpoint.timeout) as response:
                return _read_answer(response.read(MOST_BYTES))
        except urllib.error.HTTPError as error:
            problem = _describe(error, endpoint)
            if error.code not in WORTH_AGAIN and error.code < 500:
                raise EndpointError(problem) from None
            delay = None if delay is None else max(delay, _retry_after(error.headers.get("Retry-After")))
        except urllib.error.URLError as error:
            problem = f"cannot reach {endpoint.base_url!r}: {error.reason}"
            if "certificate" in str(error.reason).lower():
                raise EndpointError(problem) from None
        except (_BrokenAnswerError, http.client.HTTPException, OSError) as error:
            problem = f"{endpoint.base_url!r} gave no whole answer: {type(error).__name__} {error}".rstrip()
        if delay is None or stopped():
            break
        wait(min(delay, LONGEST_WAIT))
    raise EndpointError(
        f"{problem} ({endpoint.retries + 1} attempts); what was answered is kept, run it again"
    )


def _delays(endpoint: Endpoint) -> Iterator[float]:
    for attempt in range(endpoint.retries):
        yield endpoint.backoff * 2**attempt


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Leaves a redirect as the error that its status is."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


def _opener(endpoint: Endpoint) -> urllib.request.OpenerDirector:
    """The proxies of the environment, not for this machine; certificates verified as by default."""
    host = urlsplit(endpoint.base_url).hostname or ""
    proxies = [urllib.request.ProxyHandler({})] if is_loopback(host) else []
    return urllib.request.build_opener(_NoRedirect, *proxies)


def _read_answer(content: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(content)
        choice = answer["choices"][0]
        text = choice["message"]["content"]
    except (ValueError, LookupError, TypeError) as error:
        raise _BrokenAnswerError(f"{type(error).__name__} in {content[:80]!r}") from None
    if text is not None and not isinstance(text, str):
        raise _BrokenAnswerError(f"a {type(text).__name__} instead of a text")
    usage = answer.get("usage")
    return {
        "text": text or "",
        "finish_reason": choice.get("finish_reason"),
        "model": answer.get("model"),
        "usage": usage if isinstance(usage, dict) else {},
    }


def _describe(error: urllib.error.HTTPError, endpoint: Endpoint) -> str:
    """The status and what the server says about it, without the key should it repeat it."""
    if 300 <= error.code < 400:
        place = error.headers.get("Location", "elsewhere")
        error.close()
        return f"{endpoint.base_url!r} sends on to {place!r}: give that as the base URL if it is right"
    try:
        words = " ".join(error.read(4096).decode("utf-8", "replace").split())[:300]
    except (OSError, http.client.HTTPException):
        words = ""
    error.close()
    if endpoint.key:
        words = words.replace(endpoint.key, "***")
    return f"{endpoint.base_url!r} answered {error.code} {error.reason}: {words}".rstrip(": ")


def _retry_after(value: str | None) -> float:
    """Seconds that the server asks to wait, as a number or a date; 0 if it does not.

    >>> _retry_after("3"), _retry_after(None), _retry_after("soon")
    (3.0, 0.0, 0.0)
    """
    if value is None:
        return 0.0
    try:
        return max(float(value), 0.0)
    except ValueError:
        pass
    try:
        return max(email.utils.parsedate_to_datetime(value).timestamp() - time.time(), 0.0)
    except (TypeError, ValueError):
        return 0.0


def read_key(text: str, where: str) -> str:
    """A key from a file or the environment, without the line end.

    >>> read_key("secret\\n", "key.txt")
    'secret'
    """
    if not (key := text.strip()):
        raise FormatError(f"{where} holds no key")
    return key

"""The pages as a web application: routes, and what keeps a reader's browser safe.

Everything is read-only. Texts, titles and names come from a corpus that may hold anything: the templates
escape all of them, and the Content-Security-Policy lets no script run but the one file of this package. A
request must name a host that the server is meant for, else a foreign page could read the answers by letting
its own name point here.
"""

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from entity_index.backend import Backend
from entity_index.serve_steps import Training
from entity_index.serve_views import (
    LABELS,
    Question,
    answer,
    find_subject,
    read_question,
    sliders_of,
    whole_chunk,
)

LOOPBACK = ("127.0.0.1", "localhost", "::1")
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
SUGGESTIONS, NEIGHBOURS = 10, 15


class Guard:
    """Answers only requests that name an allowed host, and adds the headers to every answer."""

    def __init__(self, app: ASGIApp, hosts: Sequence[str]) -> None:
        """Wrap an application."""
        self.app, self.hosts = app, {host.lower() for host in hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    *message["headers"],
                    *((name.encode(), value.encode()) for name, value in HEADERS.items()),
                ]
            await send(message)

        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        host = dict(scope["headers"]).get(b"host", b"").decode("latin-1")
        if host_name(host) in self.hosts:
            await self.app(scope, receive, send_with_headers)
            return
        refusal = PlainTextResponse(f"this server does not answer for the host {host!r}\n", 421)
        await refusal(scope, receive, send_with_headers)


def host_name(host: str) -> str:
    """The name in a Host header, without its port.

    >>> host_name("LocalHost:8000"), host_name("[::1]:8000"), host_name("127.0.0.1")
    ('localhost', '::1', '127.0.0.1')
    """
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()


def make_app(
    backend: Backend, *, title: str, training: Training | None = None, hosts: Sequence[str] = LOOPBACK
) -> Starlette:
    """The pages over an opened index.

    Args:
        backend: either backend.
        title: what the pages call the index.
        training: the order in which chunks were trained on.
        hosts: the names under which the server may be asked.
    """
    pages = Pages(backend, title, training)
    routes = [
        Route("/", pages.search),
        Route("/chunk/{chunk_id:int}", pages.chunk),
        Route("/step/{step:int}", pages.step),
        Route("/together", pages.together),
        Route("/suggest", pages.suggest),
        Mount("/static", StaticFiles(directory=Path(__file__).parent / "pages" / "static")),
    ]
    handlers: dict[Any, Callable[[Request, Any], Response]] = {
        HTTPException: pages.refuse,
        ValueError: pages.refuse,
        OSError: pages.refuse,
    }
    guard = Middleware(Guard, hosts=hosts)
    return Starlette(routes=routes, middleware=[guard], exception_handlers=handlers, lifespan=start)


@asynccontextmanager
async def start(app: Starlette) -> AsyncIterator[None]:
    """Load what answers run in, 50 ms, before the first visitor waits for it."""
    await run_in_threadpool(int)
    yield


class Pages:
    """The answers to requests. They hold no state but what was asked often."""

    def __init__(self, backend: Backend, title: str, training: Training | None) -> None:
        """Prepare the templates."""
        self.backend, self.title, self.training = backend, title, training
        self.templates = Environment(
            loader=PackageLoader("entity_index", "pages"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self.templates.globals.update(title=title, labels=LABELS, sliders_of=sliders_of)
        for name in self.templates.list_templates(extensions=["html"]):
            self.templates.get_template(name)  # compiled now, not while the first visitor waits
        self.subject = lru_cache(maxsize=1000)(partial(find_subject, backend))
        self.neighbours = lru_cache(maxsize=1000)(partial(backend.co_occurring, limit=NEIGHBOURS))

    def search(self, request: Request) -> Response:
        """The chunks of an entity, or of two; without a question, how to ask."""
        question = read_question(request.query_params)
        if not question.q:
            return self._page("start.html", question=question, num_chunks=self.backend.num_chunks)
        subject = self.subject(question.q)
        also = self.subject(question.also) if question.also else None
        if subject is None or (question.also and also is None):
            unknown = question.also if subject else question.q
            similar = self.backend.names(unknown[: max(3, len(unknown) // 2)], prefix=True, limit=SUGGESTIONS)
            return self._page("unknown.html", 404, question=question, unknown=unknown, similar=similar)
        found = answer(self.backend, question, subject, also)
        return self._page(
            "search.html",
            question=question,
            answer=found,
            training=self.training,
            address=lambda page: question.address(page=page),
        )

    def chunk(self, request: Request) -> Response:
        """A whole chunk, its mentions and the steps it was trained at."""
        question = read_question(request.query_params)
        chunk_id: int = request.path_params["chunk_id"]
        with _missing():
            shown = whole_chunk(self.backend, chunk_id, question.thresholds)
        when = None if self.training is None else self.training.of_chunk(chunk_id)
        return self._page("chunk.html", question=question, chunk=shown, when=when)

    def step(self, request: Request) -> Response:
        """What one update trained on."""
        if self.training is None:
            raise HTTPException(404, "steps are known where the server was started with --order")
        page = read_question(request.query_params).page
        with _missing():
            shown = self.training.of_step(request.path_params["step"], self.backend, page=page)
        return self._page(
            "step.html",
            question=Question(),
            step=shown,
            address=lambda page: f"/step/{shown.step}?page={page}",
        )

    def together(self, request: Request) -> Response:
        """The entities in the same chunks; the search page fetches them for its margin."""
        question = read_question(request.query_params)
        found = self.neighbours(question.q, question.thresholds)
        return self._page("together.html", question=question, found=found)

    def suggest(self, request: Request) -> Response:
        """Names that begin so, for the search field."""
        text = request.query_params.get("q", "").strip()
        matches = self.backend.names(text, prefix=True, limit=SUGGESTIONS) if text else []
        return JSONResponse(
            [
                {"entity": match.entity, "name": match.name, "text": match.text, "chunks": match.chunks}
                for match in matches
            ]
        )

    def refuse(self, request: Request, error: Exception) -> Response:
        """A page that says what is wrong."""
        if isinstance(error, HTTPException):
            status, words = error.status_code, error.detail
        else:
            status, words = (503 if isinstance(error, OSError) else 400), str(error).partition("\n")[0]
        return self._page("error.html", status, question=Question(), words=words)

    def _page(self, template: str, status: int = 200, **values: Any) -> Response:
        return HTMLResponse(self.templates.get_template(template).render(values), status)


@contextmanager
def _missing() -> Iterator[None]:
    """What the address names is not there."""
    try:
        yield
    except ValueError as error:
        raise HTTPException(404, str(error)) from error

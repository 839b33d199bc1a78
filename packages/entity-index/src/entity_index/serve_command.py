"""The command `serve`: pages to look at an index, on this machine."""

import socket
from pathlib import Path
from typing import Annotated

import typer

from entity_index.hosts import is_loopback

MISSING = "the pages need more packages ({}): pip install 'entity-index[serve]'"


def serve(
    index: Annotated[
        str,
        typer.Argument(help="Entity index: a folder, or an index on an Elasticsearch server by its address."),
    ],
    order: Annotated[
        Path | None, typer.Option(help="Data order, own or published: chunks then say their steps.")
    ] = None,
    store: Annotated[
        Path | None,
        typer.Option(help="The chunk store, with --order: lengths in tokens; all three are checked."),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on. Another than loopback: whoever reaches it reads all.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")
    ] = 8321,
    name: Annotated[
        list[str],
        typer.Option(help="Host name under which the pages are asked for, besides HOST. Repeatable."),
    ] = [],  # noqa: B006 (typer copies it)
) -> None:
    """Look at an index in a browser: search by name or id, see mentions in their chunks, move thresholds.

    Read-only, for this machine only unless --host says otherwise; Ctrl+C stops it. Needs the extra 'serve'.

    Example: entity-index serve index --order run/order --store chunks
    """
    try:
        import uvicorn

        from entity_index.serve_app import LOOPBACK, make_app
    except ModuleNotFoundError as error:
        raise ValueError(MISSING.format(error)) from error
    from entity_index.backend import open_backend
    from entity_index.serve_steps import open_training

    if store is not None and order is None:
        raise ValueError("--store needs --order: without an order there are no steps to show")
    opened = open_backend(index)
    training = None if order is None else open_training(order, store, opened.store_sha256)
    hosts = [*(LOOPBACK if is_loopback(host) else [host]), *name]
    app = make_app(opened, title=Path(index).name, training=training, hosts=hosts)
    if not is_loopback(host):
        typer.echo(f"anyone who reaches {host} can read this index", err=True)
    listening = listen(host, port)
    shown, shown_port = listening.getsockname()[:2]
    shown = f"[{shown}]" if ":" in shown else shown
    typer.echo(f"http://{shown}:{shown_port}/  (Ctrl+C stops it)", err=True)
    config = uvicorn.Config(app, log_level="warning", lifespan="on", server_header=False)
    uvicorn.Server(config).run(sockets=[listening])


def listen(host: str, port: int) -> socket.socket:
    """A socket that takes connections at once.

    It is made for TCP by name, since asyncio leaves answers of others to wait for each other's
    acknowledgement, 40 ms a page.

    Raises:
        ValueError: the address is unknown, not of this machine, or taken.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP
        )[0]
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
    except OSError as error:
        raise ValueError(f"cannot listen on {host} port {port}: {error.strerror}") from error
    listening.listen()
    return listening

"""Tables and progress bars. rich is opened where one is shown: it takes a tenth of a second."""

from collections.abc import Iterable, Sequence
from typing import Any


def print_table(title: str | None, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table on stdout; a column whose name begins with `>` stands on the right."""
    from rich.console import Console
    from rich.table import Column, Table

    justified = [Column(name.lstrip(">"), justify="right" if name[0] == ">" else "left") for name in columns]
    table = Table(*justified, title=title, title_justify="left")
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def show_progress(items: Sequence[Any], title: str) -> Iterable[Any]:
    """Go through things with a bar on a terminal."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    return track(items, description=title, console=console, transient=True, disable=not console.is_terminal)

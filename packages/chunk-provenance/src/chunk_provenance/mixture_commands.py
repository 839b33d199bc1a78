"""The command `mix`: several chunk stores as one, each with a weight."""

from pathlib import Path
from typing import Annotated

import typer

from chunk_provenance.mixtures import MixtureStore, open_mixture, write_mixture
from chunk_provenance.store_commands import Overwrite, show_table


def mix(
    stores: Annotated[
        list[str],
        typer.Argument(
            metavar="STORE=WEIGHT...",
            help="Chunk stores. books=0.3: a share of the tokens trained; books=2x: seen twice an epoch.",
        ),
    ],
    out: Annotated[Path, typer.Argument(metavar="MIXTURE", help="The mixture folder to make.")],
    replacement: Annotated[
        bool,
        typer.Option(
            "--with-replacement",
            help="Draw chunks anew each time, not all of a store before any comes again.",
        ),
    ] = False,
    overwrite: Overwrite = False,
) -> None:
    """Use several chunk stores as one, by shares of the tokens trained or by how often each is seen.

    A mixture is used wherever a chunk store is: order, show, facts, training. With shares, an epoch sees the
    store that runs out first once; further epochs go on where the others stopped.

    Example: chunk-provenance mix wiki=0.7 books=0.3 mixture
    """
    write_mixture(out, stores, replacement=replacement, overwrite=overwrite)
    show_mixture(open_mixture(out))


def show_mixture(store: MixtureStore) -> None:
    """The stores of a mixture: sizes, ids, weights."""
    trained = [part.multiplier * int(part.store.length.sum(dtype="int64")) for part in store.parts]
    rows = [
        [
            part.name,
            f"{part.store.num_chunks:,}",
            f"{part.first_chunk:,}",
            f"{part.multiplier:.3f}",
            f"{tokens / sum(trained):.1%}",
        ]
        for part, tokens in zip(store.parts, trained, strict=True)
    ]
    show_table("Mixture", ["store", "chunks", "ids from", "seen an epoch", "of the tokens"], rows)

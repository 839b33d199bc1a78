"""The command `show`: chunks, documents and steps, for people to read."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from chunk_provenance.chunk_lists import read_steps
from chunk_provenance.injection.items import describe_injection
from chunk_provenance.lookup import describe_chunk, describe_document, describe_step
from chunk_provenance.order import check_store
from chunk_provenance.published import open_order
from chunk_provenance.store import open_store


def show(
    store: Annotated[Path, typer.Argument(help="A chunk store.")],
    chunk: Annotated[int | None, typer.Option(help="Show this chunk.")] = None,
    document: Annotated[str | None, typer.Option(help="Show the chunks of this document.")] = None,
    step: Annotated[
        str | None, typer.Option(help="Show what the update to this step trained on; 7-9: three updates.")
    ] = None,
    decode: Annotated[
        bool, typer.Option("--decode", help="With --step: all of every row, as the tokenizer decodes it.")
    ] = False,
    order: Annotated[Path | None, typer.Option(help="A data order: also say at which steps.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Look up a chunk, a document or a training step: which text, from where, trained on when.

    Example: chunk-provenance show store --chunk 17 --order order
    Example: chunk-provenance show store --step 7-9 --order order --decode
    """
    if sum(wanted is not None for wanted in (chunk, document, step)) != 1:
        raise ValueError("give exactly one of --chunk, --document and --step")
    opened = open_store(store)
    steps = None if order is None else open_order(order)
    if steps is not None:
        check_store(steps, opened.sha256)
    found: Any
    if chunk is not None:
        found = describe_chunk(opened, chunk, steps)
        lines = chunk_lines(found)
    elif document is not None:
        found = describe_document(opened, document, steps)
        lines = document_lines(found)
    elif step is None or steps is None:
        raise ValueError("--step needs --order")
    else:
        wanted = read_steps([step], num_updates=steps.num_updates)
        updates = [describe_step(opened, number, steps, decode=decode) for number in wanted]
        found = updates if "-" in step else updates[0]
        lines = [line for update in updates for line in step_lines(update)]
    print(json.dumps(found, indent=2, ensure_ascii=False) if as_json else "\n".join(lines))


def chunk_lines(chunk: dict[str, Any]) -> list[str]:
    """A chunk for people to read."""
    lines = [f"chunk {chunk['chunk_id']}: {chunk['tokens']} tokens, trained at length {chunk['bucket']}"]
    if "of_store" in chunk:
        lines.append(f"  chunk {chunk['chunk_id_there']} of the store {chunk['of_store']}")
    for segment in chunk["segments"]:
        lines.append(f"  document {name_document(segment)}")
        lines.append(f"  characters {segment['char_start']:,} to {segment['char_end']:,}")
    lines += [f"  {describe_steps(chunk['steps'])}"] if chunk["steps"] is not None else []
    if chunk["held_out_at"]:
        lines.append(f"  held out of steps {', '.join(map(str, chunk['held_out_at']))}")
    lines += [
        f"  at step {place['step']} {describe_injection(place)}" for place in chunk["injected_at"] or []
    ]
    lines += ["", *chunk["text"].strip("\n").split("\n")]
    if chunk["mentions"]:
        lines += ["", "mentions"]
    for mention in chunk["mentions"]:
        name = f" {mention['name']}" if mention["name"] else ""
        span = f"{mention['char_start']}-{mention['char_end']}"
        score = "" if mention["score"] is None else f" ({mention['score']:.2f})"
        lines.append(f"  {span:>9}  {mention['surface']!r}: {mention['entity'] or 'no entity'}{name}{score}")
    return lines


def document_lines(document: dict[str, Any]) -> list[str]:
    """A document's chunks for people to read."""
    lines = [f"document {name_document(document)}"]
    for chunk in document["chunks"]:
        span = f"characters {chunk['char_start']:,} to {chunk['char_end']:,}"
        steps = f", {describe_steps(chunk['steps'])}" if chunk["steps"] is not None else ""
        lines.append(f"  chunk {chunk['chunk_id']}: {span}, {chunk['tokens']} tokens{steps}")
    for part in document["dropped"]:
        span = f"characters {part['char_start']:,} to {part['char_end']:,}, {part['num_tokens']} tokens"
        lines.append(f"  dropped: {part['place'] or span}, {part['reason']}")
    return lines


def step_lines(step: dict[str, Any]) -> list[str]:
    """The chunks of an update for people to read."""
    chunks = step["chunks"]
    number = f"{len(chunks)} chunk{'s' * (len(chunks) != 1)}"
    lines = [f"step {step['step']}, epoch {step['epoch']}: {number} of length {step['bucket']}"]
    for chunk in chunks:
        place = f"  chunk {chunk['chunk_id']:>7}  document {', '.join(chunk['documents'])}"
        place += "  (held out)" if chunk["held_out"] else ""
        lines += [f"  injected: {describe_injection(chunk['injected'])}"] if "injected" in chunk else []
        if "decoded" in chunk:
            lines += [place, *chunk["decoded"].split("\n")]
        else:
            lines.append(f"{place}  {' '.join(chunk['text'].split())[:60]}")
            texts = chunk["injected"]["texts"] if "injected" in chunk else []
            lines += [f"    {' '.join(text.split())[:60]}" for text in texts]
    return lines


def name_document(document: dict[str, Any]) -> str:
    """Id, title, source and URL of a document in one line."""
    parts = [document[name] for name in ("title", "source", "url") if document[name]]
    return " · ".join([str(document["doc_id"]), *parts])


def describe_steps(steps: list[int]) -> str:
    """The steps that trained on a chunk, in words."""
    return f"trained on at steps {', '.join(map(str, steps))}" if steps else "never trained on"

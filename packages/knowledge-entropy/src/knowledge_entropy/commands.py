"""The commands: arguments, progress, printed tables. torch is imported inside them only."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from knowledge_entropy.section import write_section

if TYPE_CHECKING:
    import torch

    from knowledge_entropy.measure import Options
    from knowledge_entropy.series import Checkpoint
    from knowledge_entropy.tokens import TokenSet

Tokens = Annotated[
    Path,
    typer.Option(
        "--tokens", help="A chunk store, JSONL (ids, or text with --tokenizer) or a 2-D .npy of ids."
    ),
]
Rows = Annotated[int | None, typer.Option(min=1, help="Only the first so many rows.")]
Order = Annotated[
    Path | None, typer.Option(help="A data order over the chunk store: rows are those trained on first.")
]
Tokenizer = Annotated[Path | None, typer.Option(help="A tokenizer.json, for JSONL with text.")]
Length = Annotated[int | None, typer.Option(min=1, help="Cut rows of JSONL to so many tokens.")]
Pad = Annotated[int | None, typer.Option(min=0, help="This id at the end of a row of .npy is padding.")]
Weighting = Annotated[
    str, typer.Option(help="token: tokens count the same; sequence: rows do, as in the paper.")
]
Compat = Annotated[
    str, typer.Option(help="upstream: as the published code (padding counts, 1e-9 in the log).")
]
Blocks = Annotated[int, typer.Option(min=1, help="Blocks of rows for the standard errors.")]
Dtype = Annotated[str, typer.Option(help="float32, or bfloat16: faster, 0.0005 nats off in a layer.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, or auto for cuda if there is one.")]
Batch = Annotated[
    int, typer.Option(min=1, help="Tokens, padding included, that go through the model at once.")
]
Attention = Annotated[bool, typer.Option("--attention", help="Also the attention's entropy.")]
NextToken = Annotated[bool, typer.Option("--next-token", help="Also the next token's entropy.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Section = Annotated[Path | None, typer.Option(help="Also write a report section (JSON) here.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace OUT where it exists.")]


def measure(
    model: Annotated[str, typer.Argument(help="PATH_OR_REPO[@REVISION][:SUBFOLDER]")],
    out: Annotated[Path, typer.Argument(help="A folder for coefficients and tables.")],
    tokens: Tokens,
    rows: Rows = None,
    order: Order = None,
    tokenizer: Tokenizer = None,
    length: Length = None,
    pad_id: Pad = None,
    weighting: Weighting = "token",
    compat: Compat = "none",
    blocks: Blocks = 32,
    attention: Attention = False,
    next_token: NextToken = False,
    target_se: Annotated[
        float | None, typer.Option(help="Stop when H's standard error is this small.")
    ] = None,
    dtype: Dtype = "float32",
    device: Device = "auto",
    batch_tokens: Batch = 8192,
    as_json: Json = False,
    section: Section = None,
    overwrite: Overwrite = False,
) -> None:
    """Measure one model: the entropy of every layer, in nats.

    Example: knowledge-entropy measure run:step1000 out --tokens chunks --order run/order --rows 256
    """
    options = _options(weighting, compat, blocks, pad_id, attention, next_token, target_se)
    token_set = _read_tokens(tokens, rows, order, tokenizer, length, pad_id)
    checkpoints = _run([model], out, token_set, options, dtype, device, batch_tokens, overwrite)
    if not as_json:
        _print_layers(checkpoints[0])
    _report(checkpoints, out, target_se=target_se, as_json=as_json, section=section)


def series(
    models: Annotated[
        list[str],
        typer.Argument(help="A run with step0, step1, ... in it, or models, in order.", metavar="MODEL..."),
    ],
    out: Annotated[Path, typer.Argument(help="A folder for coefficients and tables.")],
    tokens: Tokens,
    rows: Rows = None,
    order: Order = None,
    tokenizer: Tokenizer = None,
    length: Length = None,
    pad_id: Pad = None,
    weighting: Weighting = "token",
    compat: Compat = "none",
    blocks: Blocks = 32,
    attention: Attention = False,
    next_token: NextToken = False,
    target_se: Annotated[
        float | None,
        typer.Option(help="Stop the first model when H's standard error is this small; all see its rows."),
    ] = None,
    dtype: Dtype = "float32",
    device: Device = "auto",
    batch_tokens: Batch = 8192,
    as_json: Json = False,
    section: Section = None,
    overwrite: Overwrite = False,
) -> None:
    """Measure a run's checkpoints, or several models, on the same tokens.

    Started again, it measures only what is missing: name the same OUT.

    Example: knowledge-entropy series run out --tokens chunks --order run/order --rows 256
    """
    options = _options(weighting, compat, blocks, pad_id, attention, next_token, target_se)
    token_set = _read_tokens(tokens, rows, order, tokenizer, length, pad_id)
    checkpoints = _run(models, out, token_set, options, dtype, device, batch_tokens, overwrite)
    if not as_json:
        _print_series(checkpoints)
    _report(checkpoints, out, target_se=target_se, as_json=as_json, section=section)


def plot(
    results: Annotated[Path, typer.Argument(help="A folder that `series` wrote.")],
    out: Annotated[Path, typer.Argument(help="A folder for entropy.png, layers.png, correlation.png.")],
) -> None:
    """Draw a series: entropy over the steps, deficit by layer, rank correlation of the coefficients.

    Example: knowledge-entropy plot out figures
    """
    from knowledge_entropy.figures import draw

    for path in draw(results, out):
        typer.echo(path)


def resuscitate(
    model: Annotated[str, typer.Argument(help="PATH_OR_REPO[@REVISION][:SUBFOLDER]")],
    coefficients: Annotated[
        Path, typer.Argument(help="What `measure` wrote, or mlp_average_coefficients.pt.")
    ],
    out: Annotated[Path, typer.Argument(help="A folder for the changed model.")],
    ratio: Annotated[float, typer.Option(help="Share of a layer's units to change, the least used.")],
    factor: Annotated[float, typer.Option(help="Their new coefficient, in means of the layer.")],
    max_multiplier: Annotated[float | None, typer.Option(help="No weight grows by more than this.")] = None,
    tokens: Annotated[
        Path | None, typer.Option(help="Measure the changed model on these tokens (as in `measure`).")
    ] = None,
    rows: Rows = None,
    order: Order = None,
    tokenizer: Tokenizer = None,
    length: Length = None,
    pad_id: Pad = None,
    device: Device = "auto",
    batch_tokens: Batch = 8192,
    as_json: Json = False,
    overwrite: Overwrite = False,
) -> None:
    """Write a model whose least used units are amplified, by the published rule.

    Example: knowledge-entropy resuscitate run:step1000 out/coefficients/step1000.safetensors
    revived --ratio 0.5 --factor 2 --tokens chunks --rows 256
    """
    from knowledge_entropy.revive import Request, revive

    _refuse_existing(out, overwrite)
    token_set = None if tokens is None else _read_tokens(tokens, rows, order, tokenizer, length, pad_id)
    request = Request(model, coefficients, ratio, factor, max_multiplier)
    record = revive(request, out, token_set, device=_device(device), batch_tokens=batch_tokens)
    if as_json:
        typer.echo(json.dumps(record, indent=2, sort_keys=True))
        return
    names = ["layer", "units_scaled", "dead_units_skipped", "capped_units", "largest_multiplier"]
    names += ["coefficient_before", "coefficient_expected", "coefficient_after"] if tokens else []
    _print_rows(names, [[layer[name] for name in names] for layer in record["layers"]])
    if tokens:
        before, after = record["entropy_before"], record["entropy_after"]
        typer.echo(f"entropy {before:.4f} -> {after:.4f} nats")


def convert(
    weights: Annotated[Path, typer.Argument(help="OLMo-1's model.pt, or a resuscitation_ratio*.pt.")],
    config: Annotated[Path, typer.Argument(help="The config.yaml beside it.")],
    out: Annotated[Path, typer.Argument(help="A folder for the Hugging Face model.")],
    overwrite: Overwrite = False,
) -> None:
    """Turn a checkpoint of OLMo-1's own trainer into a Hugging Face folder.

    Example: knowledge-entropy convert step738020-unsharded/model.pt
    step738020-unsharded/config.yaml olmo-738020
    """
    from knowledge_entropy.convert import convert as convert_files

    _refuse_existing(out, overwrite)
    convert_files(weights, config, out)
    typer.echo(out)


# ---- what the commands share


def _options(
    weighting: str,
    compat: str,
    blocks: int,
    pad_id: int | None,
    attention: bool,
    next_token: bool,
    target_se: float | None,
) -> "Options":
    from knowledge_entropy.measure import Options

    return Options(weighting, compat, blocks, pad_id or 0, attention, next_token, target_se)


def _read_tokens(
    path: Path,
    rows: int | None,
    order: Path | None,
    tokenizer: Path | None,
    length: int | None,
    pad_id: int | None,
) -> "TokenSet":
    from knowledge_entropy import tokens

    if order is not None and not path.is_dir():
        raise ValueError(f"--order names chunks of a chunk store, and --tokens {str(path)!r} is none")
    if path.is_dir():
        found = tokens.read_store(path, rows=rows, order=order)
    elif not path.is_file():
        raise FileNotFoundError(f"there are no tokens at {str(path)!r}")
    elif path.suffix == ".npy":
        found = tokens.read_npy(path, rows=rows, pad_id=pad_id)
    else:
        found = tokens.read_jsonl(path, tokenizer=tokenizer, rows=rows, max_length=length)
    return tokens.require_rows(found, rows)


def _run(
    models: list[str],
    out: Path,
    token_set: "TokenSet",
    options: "Options",
    dtype: str,
    device: str,
    batch_tokens: int,
    overwrite: bool,
) -> "list[Checkpoint]":
    import torch

    from knowledge_entropy.reference import find_checkpoints
    from knowledge_entropy.series import measure_series, write_tables

    if dtype not in ("float32", "bfloat16"):
        raise ValueError(f"--dtype {dtype}: expected float32 or bfloat16")
    _prepare(out, overwrite)
    references = find_checkpoints(models)
    _say_tokens(token_set, [reference.step for reference in references])
    with _progress(token_set.num_rows * len(references)) as progress:
        checkpoints = list(
            measure_series(
                references,
                token_set,
                options,
                out,
                dtype=getattr(torch, dtype),
                device=_device(device),
                batch_tokens=batch_tokens,
                progress=progress,
            )
        )
    write_tables(checkpoints, out)
    return checkpoints


def _prepare(out: Path, overwrite: bool) -> None:
    """A finished or unfinished series is continued; any other folder is left alone."""
    if overwrite:
        shutil.rmtree(out, ignore_errors=True)
    if out.exists() and any(out.iterdir()) and not (out / "coefficients").is_dir():
        raise FileExistsError(
            f"{str(out)!r} exists and is no series: choose another name, or give --overwrite"
        )
    (out / "coefficients").mkdir(parents=True, exist_ok=True)


def _refuse_existing(out: Path, overwrite: bool) -> None:
    if out.exists() and not overwrite:
        raise FileExistsError(f"{str(out)!r} exists: choose another name, or give --overwrite")


def _say_tokens(token_set: "TokenSet", steps: list[int | None]) -> None:
    seen = token_set.first_seen_step
    words = "" if seen is None else f", all trained on by step {seen}"
    typer.echo(f"{token_set.num_rows} rows, {token_set.num_tokens:,} tokens{words}", err=True)
    before = [step for step in steps if step is not None and seen is not None and step < seen]
    if before:
        typer.echo(
            f"step {before[0]} had not trained on all of them yet (the paper takes seen rows)", err=True
        )


@contextmanager
def _progress(total: int) -> Iterator[Any]:
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task("rows", total=total)
        yield lambda rows: bar.advance(task, rows)


def _device(name: str) -> "torch.device":
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {name!r} cannot be used: {str(error).splitlines()[0]}") from error


def _print_layers(checkpoint: "Checkpoint") -> None:
    names = ["entropy", "maximum", "deficit", "spread", "se", "zero_units"]
    result = checkpoint.result
    layers = result.layers
    rows = [[number, *(layers[name][number] for name in names)] for number in range(len(layers["entropy"]))]
    _print_rows(["layer", *names], [*rows, ["all", *(result.total[name] for name in names)]])


def _print_series(checkpoints: "list[Checkpoint]") -> None:
    from knowledge_entropy.series import total_row

    names = ["model", "entropy", "deficit", "se", "change", "change_se", "rank_correlation", "zero_units"]
    before: list[Any] = [None, *checkpoints[:-1]]
    rows = [total_row(one, earlier) for one, earlier in zip(checkpoints, before, strict=True)]
    _print_rows(names, [[row[name] for name in names] for row in rows])


def _print_rows(names: list[str], rows: list[list[Any]]) -> None:
    cells = [[_cell(value) for value in row] for row in rows]
    widths = [max(len(row[column]) for row in [names, *cells]) for column in range(len(names))]
    for row in [names, *cells]:
        typer.echo("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)))


def _cell(value: Any) -> str:
    if value is None or value != value:
        return "-"
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def _report(
    checkpoints: "list[Checkpoint]",
    out: Path,
    *,
    target_se: float | None,
    as_json: bool,
    section: Path | None,
) -> None:
    content = json.loads((out / "series.json").read_text(encoding="utf-8"))
    used = checkpoints[0].result.tokens
    typer.echo(f"measured on {used.num_rows} rows; tables in {out}", err=True)
    error = checkpoints[0].result.total["se"]
    if target_se is not None and not error <= target_se:
        typer.echo(
            f"the standard error stayed at {error:.4f}: for --target-se {target_se} give more rows", err=True
        )
    if as_json:
        typer.echo(json.dumps(content, indent=2, sort_keys=True))
    if section is not None:
        write_section(content, section)

"""Commands of the subset engine: plan merges, evaluate them in memory, compare them with trained models."""

import json
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from model_merge.show import print_table, show_progress

if TYPE_CHECKING:
    from model_merge.evaluation import Settings
    from model_merge.mixture_plan import MixturePlan


class Window(StrEnum):
    """Values of --window."""

    olmo_eval = "olmo-eval"
    packed = "packed"


class DType(StrEnum):
    """Values of --dtype."""

    stored = "stored"
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


Data = Annotated[
    Path,
    typer.Argument(
        help="Folder of domains: DATA/DOMAIN/*.jsonl (.gz, .zst), or DATA/DOMAIN/SPLIT/*.jsonl with --split."
    ),
]
Split = Annotated[str | None, typer.Option(help="The folder inside each domain to read, e.g. val.")]
Limit = Annotated[
    int, typer.Option(help="Most documents a domain, sampled as OLMo-Eval does; 0 takes all.", min=0)
]
WindowOption = Annotated[
    Window, typer.Option(help="olmo-eval: whole documents; packed: chunks, as in training.")
]
Length = Annotated[
    int | None,
    typer.Option(help="Tokens a window (default: 2048 or what model and tokenizer allow).", min=2),
]
Batch = Annotated[int, typer.Option(help="Most windows at a time (at most 20480 tokens).", min=1)]
Tokenizer = Annotated[
    Path | None, typer.Option(help="Folder or tokenizer.json, where the model's folder has none.")
]
Device = Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")]
DTypeOption = Annotated[DType, typer.Option(help="Type of the evaluated model's parameters.")]
Memory = Annotated[
    str,
    typer.Option(help="Memory for inputs on the device, as 8GB; what does not fit is read again from disk."),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the output if it exists.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Out = Annotated[Path, typer.Argument(help="Result table to write (Parquet).")]


def plan(
    out: Annotated[Path, typer.Argument(help="Plan to write: .parquet or .json.")],
    parts: Annotated[
        str,
        typer.Option(help="NAME=CHECKPOINT,NAME=CHECKPOINT or a YAML or JSON file that maps names to paths."),
    ],
    family: Annotated[
        str,
        typer.Option(
            help="all, size:K, loo, pairs, rolling:W, groups:FILE, list:FILE or simplex:STEP (see README)."
        ),
    ] = "all",
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """List the merges of a family, in the order in which they are evaluated: nothing is merged yet.

    Example: model-merge ablate plan plan.parquet --parts law=runs/law,art=runs/art,sea=runs/sea --family all
    """
    with needs_extra("ablate"):
        from model_merge.checkpoint import open_checkpoint
        from model_merge.mixture_plan import make_plan, parse_parts, write_plan
        from model_merge.subsets import count_family

    check_free(out, overwrite=overwrite)
    named = parse_parts(parts)
    count = count_family(family, len(named))
    if count is not None:
        say(f"{count:,} merges of {len(named)} parts")

    def cost_of(reference: str) -> float:
        return float(sum(tensor.num_bytes for tensor in open_checkpoint(reference).tensors.values()))

    made = make_plan(named, family, cost_of)
    write_plan(made, out)
    if as_json:
        print(json.dumps({"merges": len(made.rows), "parts": dict(made.parts), "family": family}))
    else:
        _show_plan(made)


def _show_plan(made: "MixturePlan", most: int = 12) -> None:
    rows = [
        (row.merge_id, " ".join(f"{weight:.4g}" for weight in row.merge.weights)) for row in made.rows[:most]
    ]
    if len(made.rows) > most:
        rows.append((f"... {len(made.rows) - most:,} more", ""))
    print_table(f"{len(made.rows):,} merges of {len(made.parts)} parts", ("merge", "weights"), rows)


def evaluate(
    plan: Annotated[Path, typer.Argument(help="Plan, as 'ablate plan' writes it.")],
    data: Data,
    out: Out,
    split: Split = None,
    limit: Limit = 1000,
    window: WindowOption = Window.olmo_eval,
    length: Length = None,
    batch: Batch = 32,
    tokenizer: Tokenizer = None,
    device: Device = "cpu",
    dtype: DTypeOption = DType.stored,
    memory: Memory = "8GB",
    shard: Annotated[
        str, typer.Option(help="i/N: evaluate the i-th of N blocks of merges, from 0 on.")
    ] = "0/1",
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Evaluate every merge of a plan on every domain. No model is written; killed, the command continues.

    Several processes share the work with --shard 0/4, 1/4 ...; the last one to finish writes the table.

    Example: model-merge ablate eval plan.parquet domains results.parquet --split val
    """
    with needs_extra("eval"):
        from model_merge.evaluation import Settings
        from model_merge.mixture_plan import read_plan

    settings = Settings(
        split,
        limit or None,
        window.value,
        length,
        batch,
        tokenizer,
        device,
        _torch_name(dtype),
        parse_bytes(memory),
    )
    _run(read_plan(plan), data, out, settings, parse_shard(shard), overwrite=overwrite, as_json=as_json)


def evaluate_models(
    models: Annotated[
        Path,
        typer.Argument(help="YAML or JSON list of {model: PATH, members: [parts of the data], id: NAME}."),
    ],
    data: Data,
    out: Out,
    split: Split = None,
    limit: Limit = 1000,
    window: WindowOption = Window.olmo_eval,
    length: Length = None,
    batch: Batch = 32,
    tokenizer: Tokenizer = None,
    device: Device = "cpu",
    dtype: DTypeOption = DType.stored,
    shard: Annotated[
        str, typer.Option(help="i/N: evaluate the i-th of N blocks of models, from 0 on.")
    ] = "0/1",
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Evaluate models as they are: those trained jointly on the mixtures are the truth for 'ablate report'.

    All must be of one architecture. `members` are the parts of the data that a model was trained on.

    Example: model-merge ablate eval-models joint.yaml domains joint.parquet --split val
    """
    with needs_extra("eval"):
        from model_merge.evaluation import Settings
        from model_merge.mixture_plan import read_models

    settings = Settings(
        split, limit or None, window.value, length, batch, tokenizer, device, _torch_name(dtype), budget=0
    )
    plan = read_models(str(models))
    _run(plan, data, out, settings, parse_shard(shard), overwrite=overwrite, as_json=as_json)


def perplexity(
    model: Annotated[str, typer.Argument(help="Checkpoint: PATH_OR_REPO[@REVISION][:SUBFOLDER].")],
    data: Data,
    out: Out,
    split: Split = None,
    limit: Limit = 1000,
    window: WindowOption = Window.olmo_eval,
    length: Length = None,
    batch: Batch = 32,
    tokenizer: Tokenizer = None,
    device: Device = "cpu",
    dtype: DTypeOption = DType.stored,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Perplexity of one model on every domain of a folder, as OLMo-Eval and Paloma count it.

    Example: model-merge perplexity runs/joint domains perplexity.parquet --split val
    """
    with needs_extra("eval"):
        from model_merge.evaluation import Settings
        from model_merge.mixture_plan import plan_models

    settings = Settings(
        split, limit or None, window.value, length, batch, tokenizer, device, _torch_name(dtype), budget=0
    )
    plan = plan_models([{"model": model, "members": [Path(model).name]}])
    _run(plan, data, out, settings, (0, 1), overwrite=overwrite, as_json=as_json)


def _torch_name(dtype: DType) -> str:
    return "auto" if dtype is DType.stored else dtype.value


def _run(
    plan: "MixturePlan",
    data: Path,
    out: Path,
    settings: "Settings",
    shard: tuple[int, int],
    *,
    overwrite: bool,
    as_json: bool,
) -> None:
    from model_merge.evaluation import evaluate_plan, skipped_path

    outcome = evaluate_plan(
        plan, data, out, settings, shard=shard, overwrite=overwrite, progress=show_progress
    )
    for reason, count in sorted(outcome.skipped.items()):
        say(f"{count:,} lines: {reason} ({skipped_path(out)} lists them)")
    say(f"evaluated {outcome.evaluated:,} of {len(plan.rows):,}, {outcome.present:,} were there already")
    if outcome.missing:
        say(f"{outcome.missing:,} are still to be evaluated by other processes: {str(out)!r} follows then")
    if as_json:
        print(
            json.dumps(
                {"evaluated": outcome.evaluated, "present": outcome.present, "missing": outcome.missing}
            )
        )
    elif not outcome.missing:
        _show_results(out)


def _show_results(out: Path, most: int = 16) -> None:
    """A few rows as they are; of many, each domain's best and worst."""
    from model_merge.results import read_results

    rows = read_results(out).to_pylist()
    if len(rows) > most:
        _show_extremes(rows)
        return
    columns = ("merge", "domain", ">documents", ">tokens", ">perplexity", ">bits per byte")
    print_table(None, columns, map(_cells, rows))


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    bits = "" if row["bits_per_byte"] is None else f"{row['bits_per_byte']:.4f}"
    counts = (f"{row['num_docs']:,}", f"{row['num_tokens']:,}")
    return (row["merge_id"], row["domain"], *counts, f"{row['ppl_token']:.4f}", bits)


def _show_extremes(rows: Sequence[dict[str, Any]]) -> None:
    by_domain: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_domain.setdefault(row["domain"], []).append(row)
    table = []
    for domain, found in by_domain.items():
        low, high = (pick(found, key=lambda row: row["ppl_token"]) for pick in (min, max))
        ends = [text for row in (low, high) for text in (f"{row['ppl_token']:.4f}", row["merge_id"])]
        table.append((domain, f"{low['num_docs']:,}", f"{low['num_tokens']:,}", *ends))
    columns = ("domain", ">documents", ">tokens", ">lowest", "merge", ">highest", "merge")
    print_table(None, columns, table)


@contextmanager
def needs_extra(name: str) -> Iterator[None]:
    """Say which extra is missing where an import fails for it."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise ValueError(f"this needs {error.name}: pip install 'model-merge[{name}]'") from error


def parse_shard(text: str) -> tuple[int, int]:
    """`i/N` as two numbers, counted from 0.

    >>> parse_shard("1/4")
    (1, 4)
    """
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if found is None or int(found[1]) >= int(found[2]):
        raise ValueError(f"--shard {text!r} is not i/N with i from 0 to N - 1")
    return int(found[1]), int(found[2])


def parse_bytes(text: str) -> int:
    """A size such as 500MB or 8GB (decimal) in bytes.

    >>> parse_bytes("1.5GB")
    1500000000
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)B?", text.strip(), re.IGNORECASE)
    if found is None:
        raise ValueError(f"{text!r} is no size: write 500MB or 8GB")
    return int(float(found[1]) * 1000 ** " KMGT".index(found[2].upper() or " "))


def check_free(out: Path, *, overwrite: bool) -> None:
    """Refuse to replace a file unless asked to."""
    if out.exists() and not overwrite:
        raise FileExistsError(f"{str(out)!r} exists: choose another place or give --overwrite")


def say(words: str) -> None:
    """Tell the user something that is not the result."""
    print(words, file=sys.stderr)

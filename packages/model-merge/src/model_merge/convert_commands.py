"""The command `model-merge convert`."""

import json
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

Names = Literal["keep", "olmo", "customgpt"]


def convert(
    source: Annotated[
        Path, typer.Argument(help="Folder of a checkpoint, or one .bin, .pt, .pth or .safetensors file.")
    ],
    out: Annotated[Path, typer.Argument(help="The folder to make.")],
    names: Annotated[
        Names,
        typer.Option(
            help="For models of ez-data-ablations: olmo gives OLMo's names and puts an identity behind the "
            "attention, customgpt gives those of the class that opens them in transformers."
        ),
    ] = "keep",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the output if it exists.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Turn pickled weights into safetensors; only tensors are ever unpickled.

    Reads pytorch_model.bin, its shards and their index, model.pt, Composer's checkpoints. Tied weights are
    written once; config and tokenizer files go along.

    Example: model-merge convert downloads/seed-pretrain-130m seed-130m --names customgpt
    """
    from model_merge.convert import convert as run  # here: --help needs no NumPy

    summary = run(source, out, names=names, overwrite=overwrite)
    if as_json:
        print(json.dumps(summary, indent=2, ensure_ascii=False))
        return
    print(f"{summary['num_tensors']:,} tensors, {summary['num_bytes'] / 1e9:,.3f} GB: {out}")
    for name, kept in summary["tied"].items():
        print(f"tied: {name} is {kept}", file=sys.stderr)
    for what, verb in (("added", "put in"), ("left_out", "left out")):
        if summary[what]:
            print(f"{verb}: {len(summary[what])} tensors, {summary[what][0]} ...", file=sys.stderr)

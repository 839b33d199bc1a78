"""Output folders that appear complete or not at all."""

import os
import shutil
from pathlib import Path


def check_output(out: Path, mark: str, *, overwrite: bool) -> None:
    """Refuse to write over anything that is there, and over a folder that is none of ours in any case.

    Args:
        out: the folder that is to be made.
        mark: a file that every folder of this kind has.
        overwrite: whether such a folder may be replaced.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not overwrite:
        raise FileExistsError(f"{str(out)!r} exists: remove it, choose another place or give --overwrite")
    if not (out / mark).is_file():
        raise FileExistsError(f"{str(out)!r} has no {mark}, so it is not overwritten: remove it yourself")


def begin(out: Path) -> Path:
    """An empty folder beside `out`; what an earlier attempt left there is removed."""
    unfinished = out.with_name(out.name + ".tmp")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    return unfinished


def finish(unfinished: Path, out: Path) -> None:
    """Give a finished folder its name; one that has it already goes away."""
    if out.exists() and any(out.iterdir()):
        old = out.with_name(out.name + ".old")
        shutil.rmtree(old, ignore_errors=True)
        os.replace(out, old)
        os.replace(unfinished, out)
        shutil.rmtree(old)
    else:
        os.replace(unfinished, out)

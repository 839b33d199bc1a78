"""The command `olmo-trainer train`: configuration in, run folder out, words on stderr."""

import json
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from chunk_provenance import sections
from olmo_trainer.train_section import training_section

if TYPE_CHECKING:
    from rich.progress import Progress

    from olmo_trainer.config import TrainConfig
    from olmo_trainer.train import Outcome

Resume = Literal["auto", "must", "never"]

INTERRUPTED = 85  # so that a job script can tell "stopped in good order, call again" from a failure
PLAIN_INTERVAL = 10.0  # seconds between lines where stderr is no terminal


def train(
    config: Annotated[
        Path,
        typer.Argument(
            metavar="CONFIG.yaml",
            help="Configuration file, keys in the README; or preset:NAME, one of `olmo-trainer presets`.",
        ),
    ],
    run: Annotated[
        Path, typer.Argument(help="Folder of the run; made if absent, continued if not finished.")
    ],
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the file, such as optim.lr=3e-4."),
    ] = None,
    corpus: Annotated[
        Path | None, typer.Option(help="Chunk store to train on, instead of the file's data.store.")
    ] = None,
    order: Annotated[
        Path | None,
        typer.Option(help="Recorded data order to train in, instead of the file's epochs or updates."),
    ] = None,
    stop_at: Annotated[
        int | None, typer.Option(min=1, help="Stop after this step; the same command without it goes on.")
    ] = None,
    resume: Annotated[
        Resume,
        typer.Option(help="Continue a run that is there: if there is one, in any case, or refuse to."),
    ] = "auto",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what the run needs, and stop.")] = False,
    section: Annotated[Path | None, typer.Option(help="Also write a report section (JSON) here.")] = None,
) -> None:
    """Train a model, and record which chunks each step saw.

    Writes RUN/step0, step1, step2, step4 ... as Hugging Face folders, RUN/order (the data order, before
    step 0), RUN/metrics.jsonl and RUN/resume. A killed run continues with the same command.

    Example: olmo-trainer train tiny.yaml runs/tiny --set optim.lr=1e-3
    """
    settings = [*_data_settings(corpus, order), *(settings or [])]
    resolved = _prepare(config, run, settings, say_on_stderr=not dry_run)
    if dry_run:
        return
    outcome = _run(resolved, run, stop_at=stop_at, resume=resume)
    finished = "finished" if outcome.step == outcome.total else "stopped"
    typer.echo(f"{finished} at step {outcome.step} of {outcome.total}: {run}", err=True)
    if section is not None:
        sections.write_section(training_section(run), section)
    if outcome.interrupted:
        raise typer.Exit(INTERRUPTED)


def _data_settings(corpus: Path | None, order: Path | None) -> list[str]:
    """The settings that `--corpus` and `--order` stand for; JSON strings are YAML, whatever is in a path."""
    given = [] if corpus is None else [f"data.store={json.dumps(str(corpus))}"]
    if order is not None:
        given += [f"data.order={json.dumps(str(order))}", "data.epochs=null", "data.updates=null"]
    return given


def _prepare(config: Path, run: Path, settings: list[str], *, say_on_stderr: bool) -> "TrainConfig":
    """The resolved configuration; says what the run takes, refuses a new one that the disk cannot hold."""
    from transformers.utils.logging import disable_progress_bar

    from olmo_trainer.config import TrainConfig, load_config
    from olmo_trainer.plan import check_disk, describe, make_plan

    disable_progress_bar()  # type: ignore[no-untyped-call]  # one for every file opened or written
    resolved = load_config(TrainConfig, config, settings)
    plan = make_plan(resolved, run)
    typer.echo(describe(plan), err=say_on_stderr)
    if not (run / "metrics.jsonl").exists():
        check_disk(plan)
    return resolved


def _run(config: "TrainConfig", run: Path, *, stop_at: int | None, resume: Resume) -> "Outcome":
    """Train with progress shown and signals heeded."""
    from olmo_trainer.train import DivergedError
    from olmo_trainer.train import train as run_training

    stop = _StopSignal()
    with _Reporter() as report:
        try:
            return run_training(
                config,
                run,
                stop_at=stop_at,
                resume=resume,
                should_stop=lambda: stop.received,
                on_step=report.step,
            )
        except DivergedError as error:
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(1) from error


class _StopSignal:
    """Remembers SIGTERM, SIGUSR1 (Slurm's warning) or the first Ctrl-C; the step in progress ends well."""

    def __init__(self) -> None:
        self.received = False
        for name in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
            signal.signal(name, self._note)

    def _note(self, number: int, frame: Any) -> None:
        self.received = True
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a second Ctrl-C ends at once


class _Reporter:
    """Progress on stderr: a bar on a terminal, else a line now and then."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(stderr=True)
        self._bar: Progress | None = None
        self._printed = time.monotonic() - PLAIN_INTERVAL
        self._begun: tuple[float, int] | None = None

    def __enter__(self) -> "_Reporter":
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def step(self, logged: dict[str, Any], total: int) -> None:
        """Show a step."""
        numbers = f"loss {logged['loss']:.3f}  {logged['tokens_per_second']:,.0f} tokens/s"
        if self._console.is_terminal:
            self._show_bar(logged["step"], total, numbers)
        elif time.monotonic() - self._printed >= PLAIN_INTERVAL or logged["step"] == total:
            self._printed = time.monotonic()
            self._console.print(
                f"step {logged['step']}/{total}  {numbers}{self._time_left(logged['step'], total)}",
                highlight=False,
            )

    def _show_bar(self, step: int, total: int, numbers: str) -> None:
        if self._bar is None:
            self._bar = _make_bar(self._console)
            self._bar.add_task("step", total=total, completed=step, numbers=numbers)
            self._bar.start()
        self._bar.update(self._bar.task_ids[0], completed=step, numbers=numbers)

    def _time_left(self, step: int, total: int) -> str:
        now = time.monotonic()
        if self._begun is None:
            self._begun = (now, step)
            return ""
        begun, first = self._begun
        return f"  {(now - begun) / max(step - first, 1) * (total - step):.0f} s left"


def _make_bar(console: Any) -> "Progress":
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("step"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[numbers]}"))
    return Progress(*columns, TimeRemainingColumn(), console=console)

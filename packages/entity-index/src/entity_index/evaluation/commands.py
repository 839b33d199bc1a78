"""The commands `evaluate` and `alt-test`."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from chunk_provenance import open_store
from chunk_provenance.figures import draw_svg
from entity_index.backend import Backend, open_backend
from entity_index.evaluation.alt_test import AltTest, alternative_annotator_test
from entity_index.evaluation.asking import Judge, Question
from entity_index.evaluation.chat_judge import open_chat_judge
from entity_index.evaluation.gold_judge import GoldJudge, read_gold
from entity_index.evaluation.methods import methods_of
from entity_index.evaluation.reporting import figure_of, record_of, summary_of, tables_of
from entity_index.evaluation.running import evaluate_retrieval, rows_of
from entity_index.options import (
    AsJson,
    IndexReference,
    MinScore,
    Section,
    parse_thresholds,
    print_json,
    save_section,
    say,
)
from entity_index.row_files import Row, RowSink, check_ending, open_sink, read_names, read_rows
from entity_index.show import print_table, table


def evaluate(
    index: IndexReference,
    gold: Annotated[
        Path | None, typer.Option(help="Gold mentions (doc_id, char_start, char_end, entity) as the judge.")
    ] = None,
    store: Annotated[Path | None, typer.Option(help="With --gold: the chunk store of the index.")] = None,
    judge: Annotated[
        str | None,
        typer.Option(help="Base URL of an OpenAI-compatible endpoint as the judge.", metavar="URL"),
    ] = None,
    model: Annotated[str | None, typer.Option(help="With --judge: the model to ask.")] = None,
    key_file: Annotated[
        Path | None, typer.Option(help="With --judge: file with the API key. Default: $OPENAI_API_KEY.")
    ] = None,
    answers: Annotated[
        Path, typer.Option(help="With --judge: file that keeps the answers; known ones are not asked again.")
    ] = Path("judge_answers.sqlite"),
    entities: Annotated[int, typer.Option(min=1, help="How many entities to draw.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Draws entities and chunks.")] = 0,
    min_score: MinScore = [],  # noqa: B006 (typer copies it)
    chunks: Annotated[
        Path | None, typer.Option(help="Also write every judged chunk: .jsonl(.gz, .zst).", metavar="FILE")
    ] = None,
    asked: Annotated[
        Path | None,
        typer.Option(help="Also write every question with its answer, e.g. for annotators.", metavar="FILE"),
    ] = None,
    figure: Annotated[
        Path | None, typer.Option(help="Also draw precision at k (SVG; needs matplotlib).", metavar="FILE")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that are there.")] = False,
    as_json: AsJson = False,
    section: Section = None,
) -> None:
    """Measure retrieval: by entity, from all sources or some, against searches for names.

    Entities of all frequencies are drawn; of each method up to 100 chunks are judged by up to three mentions
    in windows of 130 characters. A method wins where more of its chunks are right. The judge is --gold, or a
    language model behind --judge.

    Example: entity-index evaluate index --gold gold_mentions.parquet --store chunks
    """
    for file in filter(None, (chunks, asked, figure)):
        if file.exists() and not overwrite:
            raise FileExistsError(f"{str(file)!r} exists: choose another place or give --overwrite")
    for file in filter(None, (chunks, asked)):
        check_ending(file)
    backend, thresholds = open_backend(index), parse_thresholds(min_score)
    with (
        open_judge(backend, gold, store, judge, model, key_file, answers) as (opened, judged_by),
        recording(opened, asked) as recorded,
    ):
        found = evaluate_retrieval(
            backend, recorded, methods_of(thresholds), size=entities, seed=seed, progress=tell_progress
        )
    if not found.entities:
        raise ValueError(f"{backend.reference!r} has no entity with a name to evaluate")
    if chunks is not None:
        with open_sink(chunks, None, {}) as sink:
            sink.write(list(rows_of(found)), {})
    tables, drawn, summary = tables_of(found), figure_of(found), summary_of(found, judged_by)
    if figure is not None:
        unfinished = figure.with_name(figure.name + ".tmp")
        unfinished.write_text(draw_svg(drawn), encoding="utf-8")
        os.replace(unfinished, figure)
    if section is not None:
        parts = [table(*part) for part in tables]
        save_section(section, "Retrieval evaluation", summary, tables=parts, figures=[drawn])
    if as_json:
        print_json(record_of(found))
        return
    print(summary)
    for title, columns, rows in tables:
        print()
        print_table(columns, rows, title=title)


@contextmanager
def open_judge(
    backend: Backend,
    gold: Path | None,
    store: Path | None,
    url: str | None,
    model: str | None,
    key_file: Path | None,
    answers: Path,
) -> Iterator[tuple[Judge, str]]:
    """The judge that the options ask for, and what to call it."""
    if (gold is None) == (url is None):
        raise ValueError("say who judges: --gold MENTIONS --store STORE, or --judge URL --model MODEL")
    if gold is not None:
        if store is None:
            raise ValueError("--gold needs --store: the gold mentions are places in documents, not in chunks")
        opened = open_store(store)
        if backend.store_sha256 not in (None, opened.sha256):
            raise ValueError(
                f"the index is not of the chunk store {str(store)!r}: give the one it was made of"
            )
        yield GoldJudge(opened, read_gold(gold)), "gold mentions"
        return
    if model is None:
        raise ValueError("--judge needs --model: which model to ask")
    assert url is not None
    with open_chat_judge(url, model, key=read_key(key_file), answers=answers) as chat:
        yield chat, model
        say(f"{chat.asked:,} questions asked, the other answers were in {answers}")


def read_key(file: Path | None) -> str | None:
    """The API key, from a file or the environment; None where there is none (a server of one's own)."""
    key = os.environ.get("OPENAI_API_KEY") if file is None else file.read_text(encoding="utf-8")
    return key.strip() or None if key is not None else None


class Recorder:
    """Writes down what a judge is asked and what it says."""

    def __init__(self, judge: Judge, sink: RowSink) -> None:
        """Nothing was asked yet."""
        self.judging, self.sink = judge, sink

    def judge(self, questions: Sequence[Question]) -> list[bool | None]:
        """Ask the judge, and write."""
        answers = self.judging.judge(questions)
        self.sink.write([asked_row(*pair) for pair in zip(questions, answers, strict=True)], {})
        return answers


def asked_row(question: Question, answer: bool | None) -> Row:
    """A question for an annotator to read."""
    return {
        "entity": question.entity,
        "name": question.name,
        "chunk_id": question.chunk_id,
        "char_start": question.char_start,
        "char_end": question.char_end,
        "mention": question.window.mention,
        "passage": f"{question.window.before}[[{question.window.mention}]]{question.window.after}",
        "answer": answer,
    }


@contextmanager
def recording(judge: Judge, file: Path | None) -> Iterator[Judge]:
    """The judge, heard by a recorder if there is a file to write to."""
    if file is None:
        yield judge
        return
    with open_sink(file, None, {}) as sink:
        yield Recorder(judge, sink)


def tell_progress(done: int, total: int) -> None:
    """A line now and then."""
    if done and (done % 100 == 0 or done == total):
        say(f"{done:,} of {total:,} entities")


def alt_test(
    labels: Annotated[Path, typer.Argument(help="Questions with labels, a column for each annotator.")],
    annotator: Annotated[
        list[str], typer.Option(help="Column of an annotator. Give two or more, best three.")
    ],
    judge: Annotated[str, typer.Option(help="Column of the judge's answers.")] = "answer",
    epsilon: Annotated[
        float, typer.Option(help="What an annotator costs more: 0.2 experts, 0.1 crowd.")
    ] = 0.1,
    as_json: AsJson = False,
    section: Section = None,
) -> None:
    """Test whether a judge may stand in for annotators (alternative-annotator test, Calderon et al. 2025).

    LABELS is what 'entity-index evaluate --asked' wrote, with a column for each annotator added; missing
    labels are null. Exit code 1: the judge does not pass.

    Example: entity-index alt-test asked.jsonl --annotator ada --annotator bob --annotator eve
    """
    if not 0 <= epsilon <= 1:
        raise ValueError(f"--epsilon {epsilon} is outside [0, 1], the range of a share")
    names = read_names(labels)
    if missing := [name for name in (judge, *annotator) if name not in names]:
        raise ValueError(f"{str(labels)!r} has no column {missing[0]!r}, it has {', '.join(names)}")
    rows = [row for batch in read_rows(labels) for row in batch]
    columns = {name: [row.get(name) for row in rows] for name in (judge, *annotator)}
    found = alternative_annotator_test(
        columns[judge], {name: columns[name] for name in annotator}, epsilon=epsilon
    )
    headers, lines = alt_test_table(found)
    if section is not None:
        tables = [table("The judge against each annotator", headers, lines)]
        save_section(section, "Alternative-annotator test", alt_test_summary(found), tables=tables)
    if as_json:
        print_json(alt_test_record(found))
    else:
        print(alt_test_summary(found) + "\n")
        print_table(headers, lines)
    if not found.passed:
        raise typer.Exit(1)


def alt_test_table(found: AltTest) -> tuple[list[str], list[list[Any]]]:
    """The judge against each annotator."""
    headers = ["annotator", "instances", "judge as good", "annotator as good", "p", "judge wins"]
    return headers, [
        [
            one.annotator,
            one.instances,
            f"{one.judge_as_good:.1%}",
            f"{one.annotator_as_good:.1%}",
            f"{one.p_value:.2g}",
            "yes" if one.won else "no",
        ]
        for one in found.against
    ]


def alt_test_summary(found: AltTest) -> str:
    """The result in a sentence or two."""
    left_out = f" Too few instances: {', '.join(found.skipped)}." if found.skipped else ""
    passed = "may" if found.passed else "may not"
    return (
        f"The judge {passed} stand in for the annotators: winning rate {found.winning_rate:.2f} (0.5 is "
        f"needed), epsilon {found.epsilon:g}, average advantage {found.advantage:.2f}.{left_out}"
    )


def alt_test_record(found: AltTest) -> dict[str, Any]:
    """Everything as a program would read it."""
    return {
        "winning_rate": found.winning_rate,
        "advantage": found.advantage,
        "passed": found.passed,
        "epsilon": found.epsilon,
        "annotators": [vars(one) for one in found.against],
        "skipped": list(found.skipped),
    }

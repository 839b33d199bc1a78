"""A trace as words for the terminal and as a report section."""

from typing import Any

from rich.text import Text

from chunk_provenance.sections import section
from chunk_provenance.trace import Passage, Trace, excerpt

STYLES = {"subject": "bold black on bright_cyan", "answer": "bold black on bright_yellow"}


def trace_section(trace: Trace, *, command: str, limit: int) -> dict[str, Any]:
    """The curve as figures and a table, and the last `limit` passages."""
    steps = [checkpoint.step for checkpoint in trace.checkpoints]
    ranks = [float(checkpoint.rank) for checkpoint in trace.checkpoints]
    common = {"kind": "line", "x_label": "step", "x_scale": "symlog"}
    logprobs = [checkpoint.logprob_mean for checkpoint in trace.checkpoints]
    figures = [
        {
            **common,
            "title": "Rank of the answer among its candidates",
            "y_label": "rank (1 = known)",
            "series": [{"label": "rank", "x": steps, "y": ranks}],
        }
    ]
    if any(value is not None for value in logprobs):
        figures.append(
            {
                **common,
                "title": "Log-probability of the answer",
                "y_label": "nats per token",
                "series": [{"label": "log-probability", "x": steps, "y": logprobs}],
            }
        )
    return section(
        f"Trace: {trace.subject_name}, {trace.relation}, {trace.answer_name}",
        command=command,
        summary=" ".join(filter(None, [describe_trace(trace), describe_passages(trace, limit)])),
        tables=[curve_table(trace)],
        figures=figures,
        passages=[_section_passage(passage) for passage in last_passages(trace, limit)],
    )


def describe_trace(trace: Trace) -> str:
    """When the fact was learned, after how many exposures, in one or two sentences."""
    asked = f"Asked: {trace.prompts[0]!r}."
    total = trace.checkpoints[-1].exposures
    if trace.learned_at is None:
        known = [checkpoint.step for checkpoint in trace.checkpoints if checkpoint.known]
        at = f" (it was known for a moment at step {', '.join(map(str, known[:5]))})" if known else ""
        return f"{asked} Never learned, seen {total} times in the run{at}."
    lost = [point.step for point in trace.checkpoints if point.step > trace.learned_at and not point.known]
    lapse = f" Not known at {len(lost)} later checkpoints, first at step {lost[0]}." if lost else ""
    if trace.learned_at == 0:
        return f"{asked} Known before training began; seen {total} times in the run.{lapse}"
    before = next(point.exposures for point in trace.checkpoints if point.step == trace.learned_at)
    times = "once" if before == 1 else f"{before} times"
    unknown = [point.step for point in trace.checkpoints if point.step < trace.learned_at]
    since = f" (the checkpoint before is step {unknown[-1]})" if unknown else ""
    seen = f"seen {times} by then, {total} times in the run"
    return f"{asked} Learned at step {trace.learned_at}{since}; {seen}.{lapse}"


def describe_passages(trace: Trace, limit: int) -> str:
    """What the list of passages holds."""
    count = len(trace.passages)
    if not count:
        return "No passage that states it had been seen by then." if trace.learned_at != 0 else ""
    until = "in the whole run" if trace.learned_at is None else "by then"
    listed = "" if count <= limit else f"; shown: the last {limit}"
    were = "passage that mentions" if count == 1 else "passages that mention"
    injected = sum(passage.chunk_id is None for passage in trace.passages)
    both = f"{were} both {trace.subject_name} and {trace.answer_name}"
    if injected:
        both += f" ({injected} of them injected)"
    return f"{count} {both} {'was' if count == 1 else 'were'} read {until}{listed}."


def last_passages(trace: Trace, limit: int) -> list[Passage]:
    """The passages seen last before the fact was learned, in the order of reading."""
    return trace.passages[-limit:] if limit else []


def curve_table(trace: Trace) -> dict[str, Any]:
    """The checkpoints as a table of a section."""
    rows = [
        [
            point.step,
            point.exposures,
            point.rank if point.num_candidates is None else f"{point.rank} of {point.num_candidates}",
            None if point.logprob_mean is None else round(point.logprob_mean, 3),
            "yes" if point.known else "no",
        ]
        for point in trace.checkpoints
    ]
    columns = ["step", "exposures so far", "rank", "log-probability", "known"]
    return {"title": "The fact at every checkpoint", "columns": columns, "rows": rows}


def _section_passage(passage: Passage) -> dict[str, Any]:
    text, spans = excerpt(passage.text, passage.spans)
    return {
        "step": passage.steps[0],
        "again": passage.steps[1:],
        "title": passage.title or passage.doc_id,
        "source": passage_source(passage),
        "text": text,
        "spans": [list(span) for span in spans],
    }


def passage_source(passage: Passage) -> str:
    """Where a passage stands: source, document and characters."""
    if passage.chunk_id is None:
        return str(passage.source)
    characters = f"characters {passage.char_start}-{passage.char_end}"
    return f"{passage.source or 'unknown source'}, document {passage.doc_id}, {characters}"


def passage_header(passage: Passage) -> str:
    """Steps and epochs at which a passage was read, its title and source."""
    times = ", ".join(
        f"{step} (epoch {epoch})" for step, epoch in zip(passage.steps, passage.epochs, strict=True)
    )
    return f"step {times} · {passage.title or passage.doc_id} · {passage_source(passage)}"


def highlight(passage: Passage) -> Text:
    """The passage with subject and answer highlighted, for a terminal."""
    text, spans = excerpt(passage.text, passage.spans)
    shown = Text(text)
    for start, end, kind in spans:
        shown.stylize(STYLES[kind], start, end)
    return shown

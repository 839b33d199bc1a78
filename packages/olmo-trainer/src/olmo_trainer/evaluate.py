"""Ask every checkpoint of a run every probe, and keep the answers.

A run's checkpoints share one model skeleton, and each finished checkpoint is a part file beside the output,
so a killed evaluation continues. A distractor is followed only as long as it can still beat the answer:
log-probabilities only fall with each token, so the ranks are exact.
"""

import hashlib
import json
import os
import re
import string
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from olmo_trainer.probes import Question, Score, score
from olmo_trainer.questions import AskedProbe, Skipped, prepare, read_probes
from olmo_trainer.reference import (
    Reference,
    digest,
    find_file,
    load_config,
    load_model,
    load_tokenizer,
    load_weights,
    parse_reference,
    tokenizer_digest,
)

ANSWERS = pa.schema(
    [
        ("step", pa.int64()),
        ("fact_id", pa.string()),
        ("probe_id", pa.string()),
        ("logprob_sum", pa.float64()),
        ("logprob_mean", pa.float64()),
        ("logprob_first", pa.float64()),
        ("rank", pa.int32()),
        ("num_candidates", pa.int32()),
        ("greedy", pa.bool_()),
        ("generated", pa.string()),
        ("generated_correct", pa.bool_()),
    ]
)
GENERATE_ROWS = 64
BATCH_TOKENS = {"cpu": 2048, "cuda": 65536}


@dataclass(frozen=True)
class Summary:
    """What a checkpoint knows, over all probes that were asked."""

    step: int | None
    num_probes: int
    known: float
    """Share of the probes whose answer ranks first."""
    mean_rank: float
    mean_logprob: float
    greedy: float
    generated_correct: float | None


def rank_answers(
    model: PreTrainedModel, asked: Sequence[AskedProbe], *, batch_tokens: int
) -> list[tuple[Score, int]]:
    """For each probe the score of its best accepted answer, and that answer's rank among the candidates.

    A distractor whose first token alone is less likely than the whole answer is behind it for certain. First
    tokens cost nothing, they are read where the answers start; only what is left is then asked in full.
    """
    openings = score(
        model,
        [
            Question(probe.prompt, (*probe.answers, *(ids[:1] for ids in probe.distractors)))
            for probe in asked
        ],
        batch_tokens=batch_tokens,
    )
    best: list[Score] = []
    ahead = [0] * len(asked)
    rivals: list[list[tuple[int, ...]]] = []
    for number, (probe, scores) in enumerate(zip(asked, openings, strict=True)):
        best.append(max(scores[: len(probe.answers)], key=lambda found: found.logprob_sum))
        first = scores[len(probe.answers) :]
        left = [
            ids
            for ids, found in zip(probe.distractors, first, strict=True)
            if found.logprob_sum >= best[-1].logprob_sum
        ]
        ahead[number] = sum(len(ids) == 1 for ids in left)
        rivals.append([ids for ids in left if len(ids) > 1])
    open_probes = [number for number, left in enumerate(rivals) if left]
    full = score(
        model,
        [Question(asked[number].prompt, tuple(rivals[number])) for number in open_probes],
        batch_tokens=batch_tokens,
    )
    for number, scores in zip(open_probes, full, strict=True):
        ahead[number] += sum(found.logprob_sum >= best[number].logprob_sum for found in scores)
    return [(found, 1 + count) for found, count in zip(best, ahead, strict=True)]


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[tuple[int, ...]],
    *,
    max_new_tokens: int,
) -> list[str]:
    """Continue each prompt greedily up to a line's end; prompts of equal length go together, unpadded."""
    texts: dict[int, str] = {}
    by_length: dict[int, list[int]] = {}
    for number, prompt in enumerate(prompts):
        by_length.setdefault(len(prompt), []).append(number)
    for numbers in by_length.values():
        for first in range(0, len(numbers), GENERATE_ROWS):
            group = numbers[first : first + GENERATE_ROWS]
            lines = _continue(model, tokenizer, [prompts[number] for number in group], max_new_tokens)
            texts.update(zip(group, lines, strict=True))
    return [texts[number] for number in range(len(prompts))]


def _continue(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[tuple[int, ...]],
    max_new_tokens: int,
) -> list[str]:
    tokens = torch.tensor(prompts, device=model.device)
    fed, cache = tokens, None
    new: list[list[int]] = [[] for _ in prompts]
    with torch.inference_mode():
        for _ in range(max_new_tokens):
            out = model(input_ids=fed, past_key_values=cache, use_cache=True)
            chosen = out.logits[:, -1].argmax(-1, keepdim=True)
            tokens = torch.cat([tokens, chosen], dim=1)
            cache = getattr(out, "past_key_values", None)
            fed = tokens if cache is None else chosen
            for row, token in zip(new, chosen[:, 0].tolist(), strict=True):
                row.append(token)
            if all(_ended(tokenizer, row) for row in new):
                break
    return [_line(tokenizer, row) for row in new]


def _ended(tokenizer: PreTrainedTokenizerBase, new: list[int]) -> bool:
    return tokenizer.eos_token_id in new or "\n" in tokenizer.decode(new)


def _line(tokenizer: PreTrainedTokenizerBase, new: list[int]) -> str:
    if tokenizer.eos_token_id in new:
        new = new[: new.index(tokenizer.eos_token_id)]
    return str(tokenizer.decode(new, skip_special_tokens=True)).partition("\n")[0].strip()


def is_correct(generated: str, answers: Iterable[str]) -> bool:
    """Whether a generated line starts with an accepted answer, whatever the case, articles and punctuation.

    >>> is_correct("the River Cam, in Cambridge", ["River Cam"]), is_correct("Parisian", ["Paris"])
    (True, False)
    """
    words = normalised_words(generated)
    wanted = [normalised_words(answer) for answer in answers]
    return any(answer and words[: len(answer)] == answer for answer in wanted)


def normalised_words(text: str) -> list[str]:
    """Lower-case words without punctuation and articles.

    >>> normalised_words("The Hitch-Hiker's Guide")
    ['hitchhikers', 'guide']
    """
    plain = text.lower().translate(str.maketrans("", "", string.punctuation))
    return [word for word in plain.split() if word not in {"a", "an", "the"}]


def answer_table(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    asked: Sequence[AskedProbe],
    *,
    step: int | None,
    num_generated: int = 0,
    batch_tokens: int | None = None,
) -> pa.Table:
    """Ask one model every probe; one row a probe, in the probes' order."""
    budget = batch_tokens or BATCH_TOKENS.get(model.device.type, 2048)
    ranked = rank_answers(model, asked, batch_tokens=budget)
    lines: list[str] | None = None
    if num_generated:
        prompts = [probe.prompt for probe in asked]
        lines = generate(model, tokenizer, prompts, max_new_tokens=num_generated)
    rows = []
    for number, (probe, (best, rank)) in enumerate(zip(asked, ranked, strict=True)):
        line = lines[number] if lines is not None else None
        rows.append(
            {
                "step": step,
                "fact_id": probe.probe.fact_id,
                "probe_id": probe.probe.probe_id,
                "logprob_sum": best.logprob_sum,
                "logprob_mean": best.logprob_mean,
                "logprob_first": best.logprob_first,
                "rank": rank,
                "num_candidates": probe.num_candidates,
                "greedy": best.greedy,
                "generated": line,
                "generated_correct": None if line is None else is_correct(line, probe.probe.answers),
            }
        )
    return pa.Table.from_pylist(rows, schema=ANSWERS)


def summarise(answers: pa.Table) -> Summary:
    """Average one checkpoint's answers."""
    columns = {name: answers.column(name).to_pylist() for name in answers.column_names}
    num_probes = answers.num_rows
    generated = columns["generated_correct"]
    return Summary(
        step=columns["step"][0],
        num_probes=num_probes,
        known=sum(rank == 1 for rank in columns["rank"]) / num_probes,
        mean_rank=sum(columns["rank"]) / num_probes,
        mean_logprob=sum(columns["logprob_sum"]) / num_probes,
        greedy=sum(columns["greedy"]) / num_probes,
        generated_correct=None if generated[0] is None else sum(generated) / num_probes,
    )


def chance(answers: pa.Table) -> float:
    """The share of probes that guessing gets right."""
    counts: list[int] = answers.column("num_candidates").to_pylist()
    return sum(1 / count for count in counts) / len(counts)


@dataclass(frozen=True)
class Plan:
    """Which checkpoints are asked which probes, and how."""

    checkpoints: list[Reference]
    asked: list[AskedProbe]
    skipped: list[Skipped]
    tokenizer: PreTrainedTokenizerBase
    metadata: dict[str, str]
    """What the answers' file says about itself; the same for every checkpoint."""
    num_generated: int
    device: torch.device


def make_plan(run: str, probes: Path, *, steps: str, num_generated: int, device: torch.device) -> Plan:
    """Find the checkpoints, read the probes and sort out what this model cannot be asked."""
    checkpoints = find_checkpoints(run, steps)
    config = load_config(checkpoints[0])
    tokenizer = load_tokenizer(checkpoints[0])
    if len(tokenizer) > config.vocab_size:
        raise ValueError(
            f"model {str(checkpoints[0])!r} has {config.vocab_size} tokens, its tokenizer {len(tokenizer)}: "
            "this is the tokenizer of another model"
        )
    asked, skipped = open_probes(probes, tokenizer, config)
    metadata = answers_metadata(probes, tokenizer_digest(checkpoints[0]), num_generated=num_generated)
    return Plan(checkpoints, asked, skipped, tokenizer, metadata, num_generated, device)


def open_probes(
    path: Path, tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig
) -> tuple[list[AskedProbe], list[Skipped]]:
    """Read a probes file and put it into tokens for a model: what can be asked of it, and what cannot."""
    asked, skipped = prepare(read_probes(path), tokenizer, max_length=_max_length(config))
    if not asked:
        raise ValueError(
            f"none of the {len(skipped)} probes in {str(path)!r} can be asked, "
            f"the first because {skipped[0].reason}"
        )
    return asked, skipped


def answers_metadata(probes: Path, tokenizer_sha256: str, *, num_generated: int = 0) -> dict[str, str]:
    """What a file of answers says about itself."""
    return {
        "format": "answers",
        "version": "1",
        "ranked_by": "logprob_sum",
        "probes_sha256": hashlib.sha256(probes.read_bytes()).hexdigest(),
        "tokenizer_sha256": tokenizer_sha256,
        "num_generated": str(num_generated),
    }


def find_checkpoints(run: str, steps: str) -> list[Reference]:
    """The `step{N}` folders of a run in order of N, as far as `steps` names them, or one model reference.

    `steps` is `all`, a list such as `0,1,64`, or `FIRST:LAST:EVERY` with LAST included.
    """
    folder = Path(run)
    found = {}
    if folder.is_dir():
        names = (re.fullmatch(r"step(\d+)", entry.name) for entry in folder.iterdir() if entry.is_dir())
        found = {int(name[1]): Reference(run, subfolder=name[0]) for name in names if name}
    if found:
        return [found[step] for step in _wanted(sorted(found), steps, run)]
    if steps != "all":
        raise ValueError(f"{run!r} is no folder with step0, step1, ... in it: --steps needs such a run")
    return [parse_reference(run)]


def _wanted(available: list[int], steps: str, run: str) -> list[int]:
    if steps == "all":
        return available
    if re.fullmatch(r"\d+(,\d+)*", steps):
        wanted = sorted({int(step) for step in steps.split(",")})
        lacking = [step for step in wanted if step not in available]
        if lacking:
            raise ValueError(f"run {run!r} has no checkpoint step{lacking[0]}: it has {_listed(available)}")
        return wanted
    bounds = re.fullmatch(r"(\d+):(\d+):([1-9]\d*)", steps)
    if bounds is None:
        raise ValueError(f"steps {steps!r}: expected all, a list such as 0,1,64, or FIRST:LAST:EVERY")
    first, last, every = map(int, bounds.groups())
    wanted = [step for step in available if step in range(first, last + 1, every)]
    if not wanted:
        raise ValueError(f"run {run!r} has no checkpoint among {steps}: it has {_listed(available)}")
    return wanted


def _listed(steps: list[int]) -> str:
    shown = [str(step) for step in steps]
    return ", ".join(shown if len(shown) <= 8 else [*shown[:4], "...", *shown[-3:]])


def _max_length(config: PreTrainedConfig) -> int | None:
    limit = getattr(config, "max_position_embeddings", None)
    return limit if limit and limit > 0 else None


def ask_checkpoints(plan: Plan, parts: Path) -> Iterator[pa.Table]:
    """The answers of one checkpoint after the other; the folder `parts` keeps those that are done."""
    parts.mkdir(parents=True, exist_ok=True)
    model: PreTrainedModel | None = None
    shape = b""
    for reference in plan.checkpoints:
        part = parts / f"{_part_key(plan, reference)}.parquet"
        if part.exists():
            yield pq.read_table(part)
            continue
        config = find_file(reference, "config.json")
        if (
            model is None
            or config is None
            or config.read_bytes() != shape
            or not load_weights(model, reference)
        ):
            model = load_model(reference, dtype=torch.float32)
            model.to(plan.device)  # type: ignore[arg-type]
            shape = config.read_bytes() if config else b""
        table = answer_table(
            model, plan.tokenizer, plan.asked, step=reference.step, num_generated=plan.num_generated
        )
        write_table(table, part)
        yield table


def _part_key(plan: Plan, reference: Reference) -> str:
    identity = [version("olmo-trainer"), plan.metadata, str(reference.step), digest(reference)]
    name = "model" if reference.step is None else f"step{reference.step}"
    return f"{name}-{hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]}"


def write_answers(tables: Sequence[pa.Table], plan: Plan, out: Path) -> None:
    """Write all checkpoints' answers as one file, and the probes that were not asked beside it."""
    metadata = {**plan.metadata, "num_skipped": str(len(plan.skipped))}
    write_table(pa.concat_tables(tables).replace_schema_metadata(metadata), out)
    list_skipped(plan.skipped, skipped_path(out))


def list_skipped(skipped: Sequence[Skipped], listing: Path) -> None:
    """Write which probes were not asked and why, one line each; no file where all were."""
    if skipped:
        lines = (json.dumps(asdict(probe), ensure_ascii=False) for probe in skipped)
        listing.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    else:
        listing.unlink(missing_ok=True)


def skipped_path(out: Path) -> Path:
    """Where the probes that were not asked are listed."""
    return out.with_name(f"{out.stem}.skipped.jsonl")


def write_table(table: pa.Table, path: Path) -> None:
    """Write Parquet that appears whole."""
    temporary = path.with_name(f"{path.name}.tmp")
    pq.write_table(table, temporary, compression="zstd")
    os.replace(temporary, path)

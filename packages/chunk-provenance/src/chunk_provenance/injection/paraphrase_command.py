"""The command `facts paraphrase`: other wordings of own facts, from a chat model."""

import json
import os
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from chunk_provenance.formats import write_json
from chunk_provenance.hashing import hash_file
from chunk_provenance.injection.chat import Endpoint, EndpointError, ask, read_key
from chunk_provenance.injection.fact_file import read_injectable_facts
from chunk_provenance.injection.paraphrasing import (
    INSTRUCTION,
    REASONS,
    AnswerCache,
    Paraphrased,
    Wanted,
    paraphrase_fact,
)
from chunk_provenance.learning_commands import AsJson, Overwrite, check_file_free, print_json
from chunk_provenance.store_commands import say

KEY = "OPENAI_API_KEY"
NO_ENDPOINT = (
    "paraphrases need a chat model: give --base-url (or OPENAI_BASE_URL) of an OpenAI-compatible endpoint, "
    f"--model (or OPENAI_MODEL) and, if the endpoint wants one, its key in {KEY} or --key-file"
)


def paraphrase(
    facts: Annotated[
        Path, typer.Argument(metavar="FACTS.json", help="Facts, a JSON list with train_context.")
    ],
    out: Annotated[Path, typer.Option(help="The fact file to write, with paraphrases (.json).")],
    base_url: Annotated[
        str | None,
        typer.Option(
            envvar="OPENAI_BASE_URL", help="An OpenAI-compatible endpoint, e.g. http://localhost:8000/v1."
        ),
    ] = None,
    model: Annotated[str | None, typer.Option(envvar="OPENAI_MODEL", help="The model to ask for.")] = None,
    key_file: Annotated[
        Path | None, typer.Option(help=f"A file with the endpoint's key (default: the variable {KEY}).")
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="Paraphrases of each fact; those it has are kept.")] = 9,
    temperature: Annotated[float, typer.Option(help="Sampling temperature.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Seed of a fact's first question; the next has the next.")] = 0,
    attempts: Annotated[int, typer.Option(min=1, help="Questions for each missing paraphrase, at most.")] = 3,
    max_similarity: Annotated[
        float, typer.Option(help="Refuse a text that shares so many of its words, in order, with another.")
    ] = 0.9,
    keep_targets: Annotated[
        bool,
        typer.Option("--keep-targets", help="Refuse a text that lost a mem or gen target of the original."),
    ] = False,
    cache: Annotated[
        Path | None, typer.Option(help="Folder of answers; none is asked for twice (default: OUT.cache).")
    ] = None,
    parallel: Annotated[int, typer.Option(min=1, help="Facts to work on at a time.")] = 4,
    retries: Annotated[int, typer.Option(min=0, help="New attempts after 429, 5xx or no answer.")] = 6,
    backoff: Annotated[float, typer.Option(min=0, help="Seconds before the first one, then doubled.")] = 1.0,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds to wait for an answer.")] = 120.0,
    allow_http: Annotated[
        bool, typer.Option("--allow-http", help="Allow an unencrypted endpoint on another machine.")
    ] = False,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Have a chat model paraphrase facts, for injections in several wordings.

    A killed run goes on where it stood: answers are kept in the cache. What was refused and why stands in
    OUT.record.json, with model, temperature and seeds. The key is read from the environment or a file and
    written nowhere. Exit code 1 if a fact got fewer paraphrases than asked for.

    Example: chunk-provenance facts paraphrase facts.json --out paraphrased.json --base-url
    http://localhost:8000/v1 --model my-model
    """
    check_file_free(out, overwrite=overwrite)
    records = read_records(facts)
    if not base_url or not model:
        raise ValueError(NO_ENDPOINT)
    wanted = Wanted(
        base_url.rstrip("/"), model, count, temperature, seed, attempts, max_similarity, keep_targets
    )
    key = find_key(key_file)
    endpoint = Endpoint(wanted.base_url, key, timeout, retries, backoff, allow_http)
    answers = AnswerCache(cache or out.with_name(out.name + ".cache"))
    found = list(paraphrase_all(records, wanted, endpoint, answers, parallel=parallel))
    filled = [
        {**record, "paraphrases": one.paraphrases}
        for record, one in zip(records.values(), found, strict=True)
    ]
    write_facts(filled, out)
    write_json(make_record(found, wanted, hash_file(facts)), out.with_name(out.name + ".record.json"))
    summary = summarize(found, wanted)
    if as_json:
        print_json(summary)
    else:
        print("\n".join(describe(summary, out)))
    if summary["facts_short"]:
        raise typer.Exit(1)


def read_records(path: Path) -> dict[str, dict[str, Any]]:
    """The records of a fact file by their ids, as they stand there; all problems are named."""
    facts = read_injectable_facts([path])
    records = json.loads(path.read_text(encoding="utf-8"))
    return {fact.fact_id: record for fact, record in zip(facts, records, strict=True)}


def find_key(path: Path | None) -> str | None:
    """The key of the file or, without one, of the environment; None where there is none."""
    if path is not None:
        return read_key(path.read_text(encoding="utf-8"), repr(str(path)))
    return read_key(os.environ[KEY], KEY) if os.environ.get(KEY) else None


def paraphrase_all(
    records: dict[str, dict[str, Any]],
    wanted: Wanted,
    endpoint: Endpoint,
    answers: AnswerCache,
    *,
    parallel: int,
) -> Iterator[Paraphrased]:
    """What became of each fact, in order; the first error stops all."""
    stop = threading.Event()

    def answer(question: dict[str, Any]) -> tuple[dict[str, Any], bool]:
        kept = answers.get(wanted.base_url, question)
        if kept is not None:
            return kept, False
        if stop.is_set():
            raise EndpointError("stopped")
        fresh = ask(endpoint, question, wait=stop.wait, stopped=stop.is_set)
        answers.put(wanted.base_url, question, fresh)
        return fresh, True

    with ThreadPoolExecutor(parallel) as pool:
        running = [
            pool.submit(paraphrase_fact, name, record, wanted, answer) for name, record in records.items()
        ]
        try:
            for number, future in enumerate(running, start=1):
                yield future.result()
                if number % 10 == 0:
                    say(f"{number} of {len(running)} facts")
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)


def write_facts(records: list[dict[str, Any]], path: Path) -> None:
    """Write a fact file atomically, the fields in the order of the user's."""
    unfinished = path.with_name(path.name + ".tmp")
    unfinished.write_text(json.dumps(records, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(unfinished, path)


def make_record(found: list[Paraphrased], wanted: Wanted, facts_sha256: str) -> dict[str, Any]:
    """How the paraphrases were made, and every text that was refused."""
    return {
        "format": "paraphrase-record",
        "version": 1,
        "facts_sha256": facts_sha256,
        "instruction": INSTRUCTION,
        "settings": asdict(wanted),
        "facts": [
            {
                "fact_id": one.fact,
                "paraphrases": len(one.paraphrases),
                "questions": one.questions,
                "tokens": one.tokens,
                "rejected": one.rejected,
            }
            for one in found
        ],
    }


def summarize(found: list[Paraphrased], wanted: Wanted) -> dict[str, Any]:
    """Counts over all facts."""
    reasons = Counter(reject["reason"] for one in found for reject in one.rejected)
    short = {one.fact: len(one.paraphrases) for one in found if len(one.paraphrases) < wanted.count}
    questions, asked = sum(one.questions for one in found), sum(one.asked for one in found)
    return {
        "facts": len(found),
        "paraphrases": sum(len(one.paraphrases) for one in found),
        "questions": questions,
        "from_cache": questions - asked,
        "rejected": {reason: reasons[reason] for reason in REASONS if reasons[reason]},
        "facts_short": short,
        "model": wanted.model,
        "temperature": wanted.temperature,
        "seed": wanted.seed,
    }


def describe(summary: dict[str, Any], out: Path) -> Iterator[str]:
    """The summary in words."""
    yield f"{summary['paraphrases']} paraphrases of {summary['facts']} facts, {out}"
    yield f"{summary['questions']} questions, {summary['from_cache']} of them answered by the cache"
    for reason, count in summary["rejected"].items():
        yield f"refused: {count} {reason}"
    for fact, count in summary["facts_short"].items():
        yield f"{fact} has only {count} paraphrases: raise --attempts or --max-similarity, or ask another"

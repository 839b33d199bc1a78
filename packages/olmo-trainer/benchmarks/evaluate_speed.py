"""Seconds to ask one checkpoint of a 5M-parameter OLMo-2 a quickstart's worth of probes, beside lm-eval.

uv run python packages/olmo-trainer/benchmarks/evaluate_speed.py [--probes 1250] [--beside 150] [--threads 2]

The probes are synthetic: 32 candidates of 2-6 tokens each that share few beginnings. The model is asked
untrained (the worst case: no distractor can be given up early) and after some training on the answers.
lm-eval is asked the first `--beside` probes only, as it would take minutes for all; the ratio is one of
CPU-seconds for the same probes.
"""

import argparse
import json
import logging
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

os.environ.update(
    HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TOKENIZERS_PARALLELISM="false", TQDM_DISABLE="1"
)

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import Olmo2Config, Olmo2ForCausalLM, PreTrainedTokenizerFast

from olmo_trainer.evaluate import rank_answers
from olmo_trainer.probes import Question, score
from olmo_trainer.questions import AskedProbe, Probe, prepare

VOCAB = 8192
Result = TypeVar("Result")


def make_probes(rng: np.random.Generator, count: int) -> list[Probe]:
    """Probes about words w0, w1, ...: a prompt of 6-16 words, 32 candidates of 2-6 words."""

    def words(shortest: int, longest: int) -> str:
        return " ".join(f"w{n}" for n in rng.integers(1, VOCAB - 1, rng.integers(shortest, longest + 1)))

    objects = [words(2, 6) for _ in range(400)]
    probes = []
    for number in range(count):
        names = [objects[n] for n in rng.choice(len(objects), 32, replace=False)]
        probes.append(Probe(str(number), str(number), words(6, 16), (names[0],), tuple(names[1:])))
    return probes


def make_tokenizer() -> PreTrainedTokenizerFast:
    """One token a word."""
    vocabulary = {"<eos>": 0, **{f"w{n}": n for n in range(1, VOCAB)}}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<eos>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<eos>", pad_token="<eos>")


def make_model() -> Olmo2ForCausalLM:
    """An untrained OLMo-2: width 256, 6 layers."""
    torch.manual_seed(0)
    config = Olmo2Config(
        vocab_size=VOCAB,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        eos_token_id=0,
        pad_token_id=0,
    )
    return Olmo2ForCausalLM(config).eval()


def teach(model: Olmo2ForCausalLM, asked: list[AskedProbe], *, seconds: float) -> None:
    """Train on prompts with their answers until the time is up."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    rows = [torch.tensor(probe.prompt + probe.answers[0]) for probe in asked]
    rng = np.random.default_rng(0)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        batch = [rows[n] for n in rng.choice(len(rows), 32, replace=False)]
        ids = torch.nn.utils.rnn.pad_sequence(batch, batch_first=True)
        labels = torch.nn.utils.rnn.pad_sequence(batch, batch_first=True, padding_value=-100)
        model(ids, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def timed(call: Callable[[], Result]) -> tuple[float, float, Result]:
    """Seconds by the clock, CPU-seconds over all threads, and the result of a call."""
    clock, processor = time.perf_counter(), time.process_time()
    result = call()
    return time.perf_counter() - clock, time.process_time() - processor, result


def ask_everything(model: Olmo2ForCausalLM, asked: list[AskedProbe], *, batch_tokens: int) -> list[int]:
    """Ranks with every distractor asked in full."""
    questions = [Question(probe.prompt, probe.answers + probe.distractors) for probe in asked]
    scores = score(model, questions, batch_tokens=batch_tokens)
    return [1 + sum(other.logprob_sum >= found[0].logprob_sum for other in found[1:]) for found in scores]


def ask_lm_eval(
    model: Olmo2ForCausalLM, tokenizer: PreTrainedTokenizerFast, probes: list[Probe]
) -> tuple[float, float]:
    """Seconds and CPU-seconds lm-eval takes for the same probes as a multiple-choice task."""
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        rows = [{"prompt": p.prompt, "candidates": [*p.answers, *p.distractors], "gold": 0} for p in probes]
        data = Path(folder, "probes.jsonl")
        data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        Path(folder, "probes.yaml").write_text(
            "task: probes\ndataset_path: json\n"
            f"dataset_kwargs: {{data_files: {{test: {data}}}, cache_dir: {folder}}}\n"
            'test_split: test\noutput_type: multiple_choice\ndoc_to_text: "{{prompt}}"\n'
            'doc_to_choice: "{{candidates}}"\ndoc_to_target: gold\ntarget_delimiter: " "\n'
            "metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]\n"
            "metadata: {version: 1.0}\n",
            encoding="utf-8",
        )
        lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=64)
        manager = TaskManager(include_path=folder, include_defaults=False)
        options = {"tasks": ["probes"], "task_manager": manager, "bootstrap_iters": 0}
        return timed(lambda: simple_evaluate(model=lm, **options))[:2]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--probes", type=int, default=1250)
    parser.add_argument(
        "--beside", type=int, default=150, help="probes that lm-eval is asked too; 0 for none"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--teach", type=float, nargs="*", default=[10, 20], help="seconds of training, a row each"
    )
    parser.add_argument("--batch-tokens", type=int, default=2048)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    tokenizer, model = make_tokenizer(), make_model()
    probes = make_probes(np.random.default_rng(0), options.probes)
    seconds, cpu, (asked, _) = timed(lambda: prepare(probes, tokenizer, max_length=512))
    size = sum(p.numel() for p in model.parameters()) / 1e6
    print(f"{size:.1f}M parameters, {len(asked)} probes, tokenised in {seconds:.2f} s ({cpu:.2f} CPU-s)")
    print("taught for    known    ours: s   CPU-s    all in full: s   CPU-s    same ranks")
    for state in [0.0, *options.teach]:
        if state:
            model.train()
            teach(model, asked, seconds=state)
            model.eval()
        *ours, ranked = timed(lambda: rank_answers(model, asked, batch_tokens=options.batch_tokens))
        *full, ranks = timed(lambda: ask_everything(model, asked, batch_tokens=options.batch_tokens))
        same = np.mean([rank == other for (_, rank), other in zip(ranked, ranks, strict=True)])
        known = np.mean([rank == 1 for _, rank in ranked])
        print(
            f"{state:+8.0f} s  {known:7.1%}  {ours[0]:9.2f} {ours[1]:7.2f}  {full[0]:16.2f} {full[1]:7.2f}  "
            f"{same:12.2%}",
            flush=True,
        )
    if options.beside:
        few = asked[: options.beside]
        *ours, _ = timed(lambda: rank_answers(model, few, batch_tokens=options.batch_tokens))
        theirs = ask_lm_eval(model, tokenizer, probes[: options.beside])
        print(
            f"{len(few)} probes: ours {ours[0]:.2f} s ({ours[1]:.2f} CPU-s), lm-eval {theirs[0]:.2f} s "
            f"({theirs[1]:.2f} CPU-s), {theirs[1] / ours[1]:.1f} times ours"
        )


if __name__ == "__main__":
    main()

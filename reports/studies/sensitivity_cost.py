"""Time and peak memory of the sensitivity scores, measured beside LoRA training in one run.

    python reports/studies/sensitivity_cost.py [ROUNDS] [EXAMPLES_PER_ROUND] [LENGTH,LENGTH,...]

MiniLM-L6, random tokens of length 32 and 128 without padding, batches of 16. The yardstick is the forward
and backward pass (no optimizer) of LoRA, rank 8, at every linear map over the same examples, without
dropout (with it LoRA is slower). All passes are timed one after the other in each of 16 rounds (2 at
least), over 32 of the 512 examples; the order shifts by one from round to round. Passes without a target
are timed in three rounds only. The table gives medians over rounds of the ratio to LoRA in the same round,
by the clock and by CPU time, which other work on the machine disturbs less. The peak is the allocator's
over two rounds, without the base model's weights; *reported* is what the score reports as its peak.
"""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable
from itertools import accumulate
from statistics import median, quantiles

import torch
import transformers
from peft import LoraConfig, get_peft_model
from torch.profiler import ProfilerActivity, profile

from autopeft import model
from autopeft.extension import Batch, discover
from autopeft.model import BaseModel, SavedBytes
from autopeft.records import ModelSpec
from autopeft.sensitivity import ScoredModel, measure

BATCH = 16
ASKED = (
    ("gradient",),
    ("gradient_norm",),
    ("fisher",),
    ("fisher_sampled",),
    ("lora_fisher",),
    ("spectrum",),
    ("activation",),
    ("gradient", "fisher"),
    ("fisher", "lora_fisher", "spectrum", "activation"),
)
TARGETS = {("fisher",): (1.3, 1.5), ("lora_fisher",): (1.15, 1.5)}
Timed = Callable[[list[Batch]], int]  # bytes that it tells
N_WITHOUT_TARGET = 3  # rounds


def load() -> BaseModel:
    """The demo's model with an untrained head."""
    return model.load(ModelSpec(), auto_class="AutoModelForSequenceClassification", label_names=("no", "yes"))


def random_batches(base: BaseModel, *, n_examples: int, length: int, seed: int) -> list[Batch]:
    """Batches of random words and labels."""
    generator = torch.Generator().manual_seed(seed)
    n_words = len(base.module.get_input_embeddings().weight)
    batches = []
    for _ in range(n_examples // BATCH):
        words = torch.randint(1000, n_words, (BATCH, length), generator=generator)
        labels = torch.randint(0, 2, (BATCH,), generator=generator)
        batches.append({"input_ids": words, "attention_mask": torch.ones_like(words), "labels": labels})
    return batches


def lora_timer(example: Batch) -> Timed:
    """Forward and backward of LoRA at all linear maps; bytes are those saved, and one gradient each."""
    base = load()
    maps = [site.name for site in base.sites if site.kind == "linear"]
    lora = get_peft_model(base.module, LoraConfig(r=8, lora_alpha=16, target_modules=maps)).eval()
    task = discover("autopeft.tasks")["text-classification"]
    counter = SavedBytes()
    with counter.counting():
        loss = task.loss(lora, example)
    gradients = sum(p.numel() * p.element_size() for p in lora.parameters() if p.requires_grad)
    n_bytes = counter.total + gradients
    del loss

    def run(batches: list[Batch]) -> int:
        for batch in batches:
            task.loss(lora, batch).backward()
            lora.zero_grad()
        return n_bytes

    return run


def score_timer(base: BaseModel, names: tuple[str, ...]) -> Timed:
    """The pass of some scores together; bytes are those that it reports."""
    parts = [discover("autopeft.sensitivity")[name] for name in names]
    task = discover("autopeft.tasks")["text-classification"]
    scored = ScoredModel(model=base.module, sites=base.sites, task=task, precision=base.precision)

    def run(batches: list[Batch]) -> int:
        return measure(parts, scored, batches, seed=0, enough=2.0).peak_bytes

    return run


def peak_of(timer: Timed, batches: list[Batch]) -> int:
    """Bytes that the allocator had given out at once, beyond those at the start."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        timer(batches)
    events = profiler.profiler.kineto_results.events()
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    return max(accumulate(n_bytes for _, n_bytes in changes))


def table(length: int, *, n_rounds: int, n_examples: int) -> None:
    """Measure everything in turn and print the medians."""
    base = load()
    rounds = [random_batches(base, n_examples=n_examples, length=length, seed=i) for i in range(n_rounds)]
    timers = {("LoRA",): lora_timer(rounds[0][0])}
    timers |= {names: score_timer(base, names) for names in ASKED}
    seen: dict[tuple[str, ...], dict[int, tuple[float, float]]] = {names: {} for names in timers}
    peaks = {names: peak_of(timer, rounds[0] + rounds[1]) for names, timer in timers.items()}
    reported_bytes: dict[tuple[str, ...], int] = {}
    for index, batches in enumerate(rounds):
        order = [*timers][index % len(timers) :] + [*timers][: index % len(timers)]
        for names in order:
            if index < N_WITHOUT_TARGET or names in TARGETS or names == ("LoRA",):
                gc.collect()
                started = time.perf_counter(), time.process_time()
                reported_bytes[names] = timers[names](batches)
                seen[names][index] = (time.perf_counter() - started[0], time.process_time() - started[1])
    n_threads = torch.get_num_threads()
    print(f"\n{n_rounds} rounds of {n_examples} examples of {length} tokens, {n_threads} threads")
    print(
        "| what | seconds a round | × LoRA (quartiles) | in CPU seconds "
        "| MB at the peak | × LoRA | MB reported |"
    )
    print("|---|---|---|---|---|---|---|")
    for names, timings in seen.items():
        wall, cpu = (
            [pair[which] / seen["LoRA",][i][which] for i, pair in timings.items()] for which in (0, 1)
        )
        low, middle, high = quantiles(wall, n=4)
        most = [f", target {most}" for most in TARGETS.get(names, ())] or ["", ""]
        print(
            f"| {' + '.join(names)} | {median(s for s, _ in timings.values()):.2f} | "
            f"{middle:.2f} ({low:.2f} to {high:.2f}){most[0]} | {median(cpu):.2f} | "
            f"{peaks[names] / 1e6:.0f} | {peaks[names] / peaks['LoRA',]:.2f}{most[1]} | "
            f"{reported_bytes[names] / 1e6:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    given = [*sys.argv[1:], *("16", "32", "32,128")[len(sys.argv) - 1 :]]
    for length in given[2].split(","):
        table(int(length), n_rounds=int(given[0]), n_examples=int(given[1]))

"""Checks of what costs time or memory on a GPU: attention kernels, ranks, loading, writing of answers."""

from __future__ import annotations

import contextlib
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from gpu_check_parts import (
    METHODS,
    ONE_B,
    TASK,
    TINY,
    Finding,
    Place,
    base_of,
    bench_of,
    plan_of,
    planned,
    saved_base,
    seconds_of,
    step_of,
    wait,
)
from torch.utils._python_dispatch import TorchDispatchMode

from autopeft import model as models
from autopeft.adapters import compile_plan
from autopeft.types import ModelSpec


class _Kernels(TorchDispatchMode):
    """Counts the kernels of attention by name."""

    def __init__(self) -> None:
        super().__init__()
        self.names: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if "scaled_dot_product" in name:
            self.names[name.removeprefix("_scaled_dot_product_")] += 1
        return func(*args, **(kwargs or {}))


def check_attention(place: Place) -> Finding:
    """Check which attention kernels a training pass uses, with and without padding; math is slow."""
    numbers: dict[str, Any] = {}
    for name, rows in {"equal_rows": [0, 8, 16, 24], "padded_rows": [0, 1, 2, 3]}.items():
        base = base_of(TINY if place.tiny else ONE_B | {"num_hidden_layers": 2}, place)
        bench = bench_of(base, place, n_tokens=64 if place.tiny else 512, batch_size=4, is_ragged=True)
        with _Kernels() as kernels:
            bench.saved_bytes(planned(base), rows)
        numbers[name] = " and ".join(sorted(kernels.names)) or "math"
    is_good = place.tiny or "math" not in " ".join(numbers.values())
    return Finding(name="attention", status="PASS" if is_good else "FAIL", numbers=numbers)


def check_ranks(place: Place) -> Finding:
    """Measure a step of LoRA at rank 16, and at rank 15, where rows are not aligned to 16 bytes."""
    base, seconds = base_of(TINY if place.tiny else ONE_B, place), {}
    step = step_of(place, len(base.module.get_input_embeddings().weight))
    for rank in (16, 15):
        plan = plan_of(base, METHODS["lora"], rank=rank)
        assert plan is not None, "a Llama has linear layers"
        configs = compile_plan(plan, METHODS).configs
        with base.attached(configs, plan=plan, task_type="CAUSAL_LM", seed=0) as model:
            seconds[rank] = seconds_of(model, step, place)
    numbers = {f"seconds_rank_{rank}": round(value, 4) for rank, value in seconds.items()}
    return Finding(
        name="ranks", status="PASS", numbers=numbers | {"ratio": round(seconds[15] / seconds[16], 3)}
    )


@contextlib.contextmanager
def _host_memory() -> Iterator[list[int]]:
    """Record by how many bytes the process grows at most, apart from mapped files."""
    answer, is_done, start = [0], threading.Event(), _anonymous_bytes()

    def watch() -> None:
        while not is_done.wait(0.005):
            answer[0] = max(answer[0], _anonymous_bytes() - start)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield answer
    finally:
        is_done.set()
        thread.join()


def _anonymous_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


def check_load(place: Place) -> Finding:
    """Check host memory while a model loads: weights stream to a GPU, at most half at a time."""
    if not Path("/proc/self/status").exists():
        return Finding(name="load", status="SKIP", numbers={"reason": "this system has no /proc"})
    with tempfile.TemporaryDirectory() as folder:
        saved_base(TINY if place.tiny else ONE_B, place, folder)
        models.release_memory(place.device)
        started = time.perf_counter()
        with _host_memory() as grown:
            base = models.load(
                ModelSpec(id=folder),
                auto_class=TASK.auto_class,
                label_names=(),
                device=str(place.device),
                precision=place.precision,
            )
        seconds = time.perf_counter() - started
    numbers = {"weights_gb": base.weight_bytes / 1e9, "host_gb": grown[0] / 1e9, "seconds": seconds}
    is_good = place.tiny or grown[0] <= base.weight_bytes / 2
    numbers = {name: round(value, 3) for name, value in numbers.items()}
    return Finding(name="load", status="PASS" if is_good else "FAIL", numbers=numbers)


def check_generation(place: Place) -> Finding:
    """Measure the tokens per second that a model with LoRA generates for `exact-match`."""
    n_rows, n_new = (2, 4) if place.tiny else (32, 64)
    with tempfile.TemporaryDirectory() as folder:
        saved_base(TINY if place.tiny else ONE_B | {"vocab_size": 200}, place, folder)
        base = models.load(
            ModelSpec(id=folder),
            auto_class=TASK.auto_class,
            label_names=(),
            device=str(place.device),
            precision=place.precision,
        )
    ids = torch.randint(4, 200, (n_rows, 33), generator=torch.Generator().manual_seed(0)).to(place.device)
    labels = ids.clone()
    labels[:, :32] = -100
    batch, plan = {"input_ids": ids, "labels": labels}, planned(base)
    configs = compile_plan(plan, METHODS).configs
    with base.attached(configs, plan=plan, task_type="CAUSAL_LM", seed=0) as model, torch.no_grad():
        model.eval()
        seconds, texts = 0.0, [""]
        for _ in range(2):  # the first pass warms up
            wait(place)
            started = time.perf_counter()
            with base.autocast():
                texts = TASK.model_type.generate(model, batch, base.tokenizer, n_new)
            wait(place)
            seconds = time.perf_counter() - started
    n_tokens = sum(len(text.split()) for text in texts)  # a token is a word here
    numbers = {"rows": n_rows, "tokens": n_tokens, "tokens_per_second": round(n_tokens / seconds)}
    return Finding(name="generation", status="PASS" if n_tokens else "FAIL", numbers=numbers)

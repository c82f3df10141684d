"""Check on one or more GPUs what `autopeft info --gpu` has no time for; half an hour.

    python tools/gpu/gpu_check.py [--dry] [--only NAME ...]

Every method attaches, trains and counts as planned, adapters that start from data (EVA) too. A 1 B model in 4
and 8 bits and an 8 B model take the memory that a replay without weights says. A row that fits only with
checkpointing is trained with it; a run out of memory leaves the base model usable; a full run that continues
its short run equals an unbroken one. A second GPU is used alone, and a model that is spread over two GPUs
learns as on one. Prints PASS, FAIL or SKIP for each, and JSON. Without a GPU it exits with code 2; `--dry`
runs the same checks in tiny sizes on the CPU.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from gpu_check_parts import (
    EIGHT_B,
    METHODS,
    ONE_B,
    TASK,
    TINY,
    Finding,
    Place,
    base_of,
    bench_of,
    memory_finding,
    plan_of,
    planned,
    saved_base,
    short_run,
    skeleton_of,
)
from torch import nn

from autopeft import model as models
from autopeft.estimate import quantize_linear_layers
from autopeft.model import Precision
from autopeft.model.quantization import BYTES_PER_WEIGHT
from autopeft.plugins import Batch
from autopeft.train import Compute
from autopeft.types import ModelSpec, Status


def check_methods(place: Place) -> Finding:
    """Check that every method attaches what its plan says, trains, and leaves the base model as it was."""
    base = base_of(TINY, place, attention_bias=True)
    before, faults = base.sha256(), {}
    bench = bench_of(base, place, batch_size=8)
    for name, method in METHODS.items():
        plan = plan_of(base, method)
        if plan is None:
            faults[name] = "fits no target module"
            continue
        measurement = bench.measure(plan, short_run(2, 8))  # which compares the count with peft's
        if measurement.status is not Status.COMPLETE:
            faults[name] = str(measurement.error)
        elif base.sha256() != before:
            faults[name] = "changed the base model"
            break
    status = "FAIL" if faults else "PASS"
    return Finding(name="methods", status=status, numbers={"n_methods": len(METHODS), **faults})


def check_eva(place: Place) -> Finding:
    """Check that LoRA that starts from data trains; its first values come from the inputs of the layers."""
    base = base_of(TINY, place)
    before, plan = base.sha256(), planned(base, init="eva")
    measurement = bench_of(base, place, batch_size=8).measure(plan, short_run(2, 8))
    numbers = {"status": measurement.status.value, "unchanged": base.sha256() == before}
    is_good = measurement.status is Status.COMPLETE and numbers["unchanged"]
    return Finding(name="EVA", status="PASS" if is_good else "FAIL", numbers=numbers)


def check_second_gpu(place: Place) -> Finding:
    """Check that a model on the second of two GPUs takes no memory of the first."""
    if place.tiny or torch.cuda.device_count() < 2:
        return Finding(name="second GPU", status="SKIP", numbers={"reason": "there is none"})
    first, second = torch.device("cuda:0"), dataclasses.replace(place, device=torch.device("cuda:1"))
    before = torch.cuda.memory_allocated(first)
    torch.cuda.reset_peak_memory_stats(first)
    base = base_of(TINY, second)
    measurement = bench_of(base, second, batch_size=8).measure(planned(base), short_run(2, 8))
    more = torch.cuda.max_memory_allocated(first) - before
    numbers = {"status": measurement.status.value, "bytes_on_the_first": more}
    is_good = measurement.status is Status.COMPLETE and not more
    return Finding(name="second GPU", status="PASS" if is_good else "FAIL", numbers=numbers)


def check_spread(place: Place) -> Finding:
    """Check that a 1 B model over all GPUs learns as on one, and that each GPU holds some layers."""
    if place.tiny or torch.cuda.device_count() < 2:
        return Finding(name="spread", status="SKIP", numbers={"reason": "it needs two GPUs"})
    losses, numbers = [], {}
    with tempfile.TemporaryDirectory() as folder:
        saved_base(ONE_B, place, folder)
        for device in (str(place.device), "balanced"):
            base = models.load(
                ModelSpec(id=folder),
                auto_class=TASK.auto_class,
                label_names=(),
                device=device,
                precision=place.precision,
            )
            held = [round(torch.cuda.memory_allocated(each) / 1e9, 2) for each in base.devices]
            bench = bench_of(base, place, batch_size=8, compute=Compute(checkpointing=True))
            run = bench.measure(planned(base), short_run(8, 8))
            numbers |= {
                f"gb_{device}": held,
                f"loss_{device}": run.loss,
                f"seconds_{device}": run.train_seconds,
            }
            losses.append(float("inf") if run.loss is None else run.loss)
            del base, bench
            models.release_memory(place.device)
    is_good = (
        abs(losses[0] - losses[1]) <= 1e-3 and len(held) == torch.cuda.device_count() and min(held) > 0.1
    )
    return Finding(name="spread", status="PASS" if is_good else "FAIL", numbers=numbers)


def check_eight_b(place: Place) -> Finding:
    """Check the memory of an 8 B model in bfloat16."""
    if not place.tiny and torch.cuda.get_device_properties(place.device).total_memory < 24e9:
        return Finding(name="memory of 8 B", status="SKIP", numbers={"reason": "less than 24 GB"})
    shape = TINY | {"num_hidden_layers": 3} if place.tiny else EIGHT_B
    return memory_finding("memory of 8 B", base_of(shape, place), skeleton_of(shape), place)


def check_bits(place: Place, *, bits: str) -> Finding:
    """Check a quantized model: it trains, stays unchanged, and has the size that a replay predicts."""
    name = bits.replace("bit", " bits")
    if importlib.util.find_spec("bitsandbytes") is None:
        return Finding(name=name, status="SKIP", numbers={"reason": "bitsandbytes is not installed"})
    shape = TINY if place.tiny else ONE_B
    with tempfile.TemporaryDirectory() as folder:
        plain = base_of(shape, place)
        plain.module.save_pretrained(folder)
        del plain
        base = models.load(
            ModelSpec(id=folder, quantize=bits),
            auto_class=TASK.auto_class,
            label_names=(),
            needs_tokenizer=False,
            device=str(place.device),
            precision=Precision(dtype="bfloat16"),
        )
    before = base.sha256()
    measurement = bench_of(base, place, batch_size=8).measure(planned(base), short_run(2, 8))
    numbers: dict[str, Any] = {"status": measurement.status.value, "unchanged": base.sha256() == before}
    is_good = measurement.status is Status.COMPLETE and numbers["unchanged"]
    if place.tiny:  # on a CPU bitsandbytes unpacks into buffers of its own
        return Finding(name=name, status="PASS" if is_good else "FAIL", numbers=numbers)
    skeleton = skeleton_of(shape)
    quantize_linear_layers(skeleton.module, BYTES_PER_WEIGHT[bits], skipped=("lm_head",))
    found = memory_finding(name, base, skeleton, place)
    status = found.status if is_good else "FAIL"
    return dataclasses.replace(found, status=status, numbers=found.numbers | numbers)


class _FullDevice:
    """A task that runs out of memory with more than two rows, as a full GPU does."""

    def __init__(self) -> None:
        self.largest = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(TASK, name)

    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Compute the task's loss if there are few rows."""
        n_rows = len(batch["input_ids"])
        if n_rows > 2:
            raise torch.OutOfMemoryError("simulated")
        self.largest = max(self.largest, n_rows)
        return TASK.loss(model, batch)


def check_out_of_memory(place: Place) -> Finding:
    """Check that a trial without enough memory is a value, or fits in smaller pieces."""
    base = base_of(TINY if place.tiny else ONE_B, place)
    before, plan = base.sha256(), planned(base)
    n_tokens = 32 if place.tiny else 512
    compute = Compute(micro_batch_tokens=4 * n_tokens)
    ballast = None
    if not place.tiny:
        free, _ = torch.cuda.mem_get_info(place.device)
        ballast = torch.empty(max(0, free - 3 * 2**30), dtype=torch.uint8, device=place.device)
    task = _FullDevice() if place.tiny else TASK
    short = bench_of(base, place, n_tokens=n_tokens, batch_size=8, task=task, compute=compute)
    starved = short.measure(plan, short_run(1, 8))
    del ballast
    after = bench_of(base, place, batch_size=8).measure(plan, short_run(1, 8))
    numbers = {
        "without_memory": starved.status.value,
        "afterwards": after.status.value,
        "unchanged": base.sha256() == before,
    }
    is_value = starved.status in (Status.OUT_OF_MEMORY, Status.COMPLETE)
    is_good = is_value and after.status is Status.COMPLETE and numbers["unchanged"]
    return Finding(name="out of memory", status="PASS" if is_good else "FAIL", numbers=numbers)


def check_long_row(place: Place) -> Finding:
    """Check a row that fits only with checkpointing; on a CPU, that checkpointing keeps less."""
    n_tokens = 64 if place.tiny else 2048
    # A small vocabulary, since checkpointing makes no logits smaller.
    base = base_of(TINY if place.tiny else ONE_B | {"vocab_size": 1000}, place)
    plan = planned(base)
    benches = [
        bench_of(base, place, n_tokens=n_tokens, batch_size=1, compute=Compute(checkpointing=is_on))
        for is_on in (False, True)
    ]
    kept = [bench.saved_bytes(plan, [0]) for bench in benches]
    numbers: dict[str, Any] = {
        "kept_gb": round(kept[0] / 1e9, 4),
        "kept_checkpointed_gb": round(kept[1] / 1e9, 4),
    }
    if place.tiny:
        return Finding(name="long row", status="PASS" if kept[1] < kept[0] else "FAIL", numbers=numbers)
    models.release_memory(place.device)
    ballast_bytes = models.free_bytes(place.device) - sum(kept) // 2
    ballast = torch.empty(max(0, ballast_bytes), dtype=torch.uint8, device=place.device)
    answers = [bench.measure(plan, short_run(1, 1)).status for bench in benches]
    del ballast
    numbers |= {"plain": answers[0].value, "checkpointed": answers[1].value}
    is_good = answers == [Status.OUT_OF_MEMORY, Status.COMPLETE]
    return Finding(name="long row", status="PASS" if is_good else "FAIL", numbers=numbers)


def check_resumed(place: Place) -> Finding:
    """Check that a full run that continues its short run ends where one from the start ends."""
    base, runs = base_of(TINY, place), []
    plan, full = planned(base), dataclasses.replace(short_run(6, 8), split="confirm")
    for first in (True, False):
        with tempfile.TemporaryDirectory() as folder:
            at = Path(folder)
            bench = bench_of(base, place, batch_size=8, full_steps=6, under_way=lambda *_, at=at: at)
            if first:
                bench.measure(plan, short_run(4, 8))
            runs.append(bench.measure(plan, full))
    losses = [run.loss for run in runs]
    gap = abs(losses[0] - losses[1]) if None not in losses else float("inf")
    steps = [run.trained_steps for run in runs]
    # On a GPU sums may come in another order; on a CPU the numbers are the same to the bit.
    is_good = gap <= (0.0 if place.tiny else 1e-4) and steps[0] < steps[1]
    numbers = {"loss": losses[0], "gap": gap, "steps": steps}
    return Finding(name="resumed", status="PASS" if is_good else "FAIL", numbers=numbers)


CHECKS: dict[str, Callable[[Place], Finding]] = {
    "methods": check_methods,
    "eva": check_eva,
    "eight_b": check_eight_b,
    "four_bits": partial(check_bits, bits="4bit"),
    "eight_bits": partial(check_bits, bits="8bit"),
    "long_row": check_long_row,
    "out_of_memory": check_out_of_memory,
    "resumed": check_resumed,
    "second_gpu": check_second_gpu,
    "spread": check_spread,
}


def run(place: Place, names: Sequence[str]) -> list[Finding]:
    """Run some checks; one that raises fails."""
    findings = []
    for name in names:
        started = time.perf_counter()
        try:
            found = CHECKS[name](place)
        except Exception as error:  # the other checks still run
            found = Finding(name=name, status="FAIL", numbers={"error": f"{type(error).__name__}: {error}"})
        findings.append(found)
        words = ", ".join(f"{key} {value}" for key, value in found.numbers.items())
        print(f"{found.status}  {found.name}: {words} ({time.perf_counter() - started:.0f} s)", flush=True)
        models.release_memory(place.device)
    return findings


def main() -> int:
    """Run the checks, and return the exit code: 0 all passed, 1 some failed, 2 no GPU."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dry", action="store_true", help="everything but the GPU: tiny sizes on the CPU")
    parser.add_argument("--only", nargs="*", choices=list(CHECKS), help="these checks alone")
    flags = parser.parse_args()
    if not flags.dry and not torch.cuda.is_available():
        print("There is no GPU here; run this where torch sees one, or pass --dry.", file=sys.stderr)
        return 2
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    warnings.simplefilter("ignore")  # of peft and transformers, about what the checks do on purpose
    device = torch.device("cpu" if flags.dry else "cuda")
    place = Place(device=device, tiny=flags.dry)
    findings = run(place, flags.only or list(CHECKS))
    card = "cpu" if flags.dry else torch.cuda.get_device_name(place.device)
    answer = {"device": card, "torch": torch.__version__, "checks": [vars(found) for found in findings]}
    print(json.dumps(answer, indent=2))
    return int(any(found.status == "FAIL" for found in findings))


if __name__ == "__main__":
    sys.exit(main())

"""Train the same LoRA by autopeft's loop and by TRL's SFTTrainer, and compare losses, speed and peak memory.

    python tools/gpu/gpu_check_parity.py [--model MODEL] [--data FILE] [--bits 4bit] [--cpu]

Both get the same first weights, the same rows in the same batches, AdamW, and the same rate at each step.
FILE has a JSON object with `prompt` and `completion` a line; without one the rows are counting sequences.
Without a model its weights are random, in the shape of Qwen2.5-0.5B. Rows have at most 128 tokens,
16 a step; fewer are enough on a CPU (`--tokens`, `--batch-size`).
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from gpu_check_parts import METHODS, TASK, TINY, Finding, Place, planned, saved_base, wait
from peft import get_peft_model
from torch.optim.lr_scheduler import LambdaLR

from autopeft import model as models
from autopeft.adapters import compile_plan
from autopeft.model import BaseModel
from autopeft.plugins import LabelSpace
from autopeft.train import Bench, EncodedSplit, train_rows, watched
from autopeft.train.rates import rate_share
from autopeft.types import Fidelity, ModelSpec, Plan, Status, TaskSpec

HALF_B = {"hidden_size": 896, "num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2}
HALF_B |= {"intermediate_size": 4864, "vocab_size": 151936, "tie_word_embeddings": True}
RATE = 5e-4
# Largest mean difference of the losses, in nats. In float32 sums differ in their order alone. In bfloat16 two
# runs of one loop differ by about this much; for a model in 4 bits TRL holds the adapters in bfloat16 too.
NEAR = {"float32": 1e-3, "bfloat16": 0.02}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Curve:
    """The losses and times of one trainer at the end of each step, and its peak memory."""

    losses: Sequence[float]
    clock: Sequence[float]
    peak_bytes: int

    @property
    def seconds(self) -> float:
        """Return the seconds of a step without the first one; processor time on a CPU."""
        return (self.clock[-1] - self.clock[0]) / (len(self.clock) - 1)


def check_trl(
    place: Place,
    *,
    bits: str = "none",
    steps: int | None = None,
    batch_size: int = 16,
    most_tokens: int = 128,
) -> Finding:
    """Check that the losses of both trainers differ by rounding only, step by step."""
    name = "TRL" if bits == "none" else f"TRL, {bits}"
    for package in ("trl", *(["bitsandbytes"] if bits != "none" else [])):
        if importlib.util.find_spec(package) is None:
            return Finding(name=name, status="SKIP", numbers={"reason": f"{package} is not installed"})
    n_steps = steps or (6 if place.tiny else 200)
    with tempfile.TemporaryDirectory() as folder:
        if place.model is None:
            saved_base(TINY if place.tiny else HALF_B, place, folder)
        base = models.load(
            ModelSpec(id=place.model or folder, quantize=bits),
            auto_class=TASK.auto_class,
            label_names=(),
            device=str(place.device),
            precision=place.precision,
        )
        split = rows_of(base, place.data, most_tokens)
        bench = Bench(
            base=base,
            task=TASK,
            methods=METHODS,
            splits={"train": split, "confirm": split},
            batch_size=4 if place.tiny and steps is None else batch_size,
        )
        plan = dataclasses.replace(planned(base), learning_rate=RATE)
        ours = by_autopeft(bench, plan, n_steps, place)
        theirs = by_trl(bench, plan, n_steps, place, folder=folder)
    gaps = [abs(a - b) for a, b in zip(ours.losses, theirs.losses, strict=True)]
    tokens_a_row = float(np.asarray(split.lengths).mean())
    n_tokens = bench.batch_size * tokens_a_row
    numbers: dict[str, Any] = {"steps": n_steps, "tokens_a_row": round(tokens_a_row)}
    numbers |= {"largest_gap": round(max(gaps), 7), "mean_gap": round(sum(gaps) / n_steps, 7)}
    for label, curve in (("autopeft", ours), ("trl", theirs)):
        last = curve.losses[-max(1, n_steps // 10) :]
        numbers[f"{label}_last_loss"] = round(sum(last) / len(last), 6)
        numbers[f"{label}_seconds"] = round(curve.seconds, 4)
        numbers[f"{label}_tokens_per_second"] = round(n_tokens / curve.seconds)
        numbers[f"{label}_peak_gb"] = round(curve.peak_bytes / 1e9, 3)
    is_good = numbers["mean_gap"] <= NEAR[place.precision.dtype]
    return Finding(name=name, status="PASS" if is_good else "FAIL", numbers=numbers)


def rows_of(base: BaseModel, data: Path | None, most_tokens: int) -> EncodedSplit:
    """Read rows of at most so many tokens from a file, or make 256 counting sequences."""
    if data is None:
        n_words = len(base.module.get_input_embeddings().weight) - 4
        rows = [
            [4 + (i * i + j * (i % 3 + 1)) % min(n_words, 1000) for j in range(24 + i % 8)]
            for i in range(256)
        ]
        examples = tuple({"input_ids": row, "attention_mask": [1] * len(row)} for row in rows)
        return EncodedSplit(examples=examples, labels=tuple(rows))
    lines = [json.loads(line) for line in data.read_text("utf-8").splitlines() if line]
    task = TASK.fitted(TaskSpec(), LabelSpace(kind="completion"), base.tokenizer)
    prompts = [(line["prompt"],) for line in lines]
    encoded = task.encode(prompts, [line["completion"] for line in lines], base.tokenizer, 4 * most_tokens)
    short = [i for i, each in enumerate(encoded.examples) if len(each["input_ids"]) <= most_tokens]
    return EncodedSplit(
        examples=tuple(encoded.examples[i] for i in short), labels=tuple(encoded.labels[i] for i in short)
    )


def by_autopeft(bench: Bench, plan: Plan, n_steps: int, place: Place) -> Curve:
    """Train with autopeft, from a plan to a measurement."""
    losses: list[float] = []
    clock: list[float] = []

    def watch(step: int, n: int, loss: Any) -> None:
        losses.append(loss())
        clock.append(now(place))

    n_rows = n_steps * bench.batch_size
    fidelity = Fidelity(split="confirm", train_steps=n_steps, train_examples=n_rows, eval_examples=8, seed=0)
    with peak_of(place) as peak, watched(watch):
        measurement = bench.measure(plan, fidelity)
    assert measurement.status is Status.COMPLETE, measurement.error
    return Curve(losses=losses, clock=clock, peak_bytes=peak[0])


def by_trl(bench: Bench, plan: Plan, n_steps: int, place: Place, *, folder: str) -> Curve:
    """Train with TRL's SFTTrainer, on the same base model in memory, from the same first weights."""
    import datasets
    import trl

    base, split = bench.base, bench.splits["train"]
    (config,) = compile_plan(plan, METHODS).configs
    with base.attached((config,), plan=plan, task_type=TASK.peft_task_type, seed=0) as attached:
        first = [p.detach().clone() for name, p in sorted(attached.named_parameters()) if p.requires_grad]
    model = get_peft_model(base.module, config)
    trained = [p for name, p in sorted(model.named_parameters()) if p.requires_grad]
    for parameter, value in zip(trained, first, strict=True):
        parameter.data.copy_(value)
    steps = train_rows(split.lengths, n_steps=n_steps, batch_size=bench.batch_size, seed=0)
    rows = [
        {"input_ids": list(split.examples[i]["input_ids"]), "labels": list(split.labels[i])}
        for step in steps
        for i in step
    ]
    losses: list[float] = []
    clock: list[float] = []

    class Watch(transformers.TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if "loss" in logs:
                losses.append(logs["loss"])
                clock.append(now(place))

    settings = trl.SFTConfig(
        output_dir=folder,
        max_steps=n_steps,
        per_device_train_batch_size=bench.batch_size,
        train_sampling_strategy="sequential",
        max_length=None,
        bf16=place.precision.dtype == "bfloat16",
        gradient_checkpointing=False,
        use_cpu=place.device.type == "cpu",
        dataloader_pin_memory=place.device.type != "cpu",
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    optimizer = torch.optim.AdamW(trained, lr=plan.learning_rate, weight_decay=0.0, fused=True)
    schedule = LambdaLR(optimizer, lambda step: rate_share(min(step, n_steps - 1), n_steps))
    trainer = trl.SFTTrainer(
        model=model,
        args=settings,
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=base.tokenizer,
        callbacks=[Watch()],
        optimizers=(optimizer, schedule),
    )
    trainer.remove_callback(transformers.PrinterCallback)
    with peak_of(place) as peak:
        trainer.train()
    return Curve(losses=losses, clock=clock, peak_bytes=peak[0])


def now(place: Place) -> float:
    """Return the seconds once the device is done; on a CPU, those of this process alone."""
    wait(place)
    return time.process_time() if place.device.type == "cpu" else time.perf_counter()


@contextmanager
def peak_of(place: Place) -> Iterator[list[int]]:
    """Record the peak memory of a block: of torch on a GPU, of the whole process on a CPU."""
    answer: list[int] = []
    models.release_memory(place.device)
    if place.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(place.device)
        yield answer
        answer.append(torch.cuda.max_memory_allocated(place.device))
        return
    status = Path("/proc/self/status")
    if status.exists():
        Path("/proc/self/clear_refs").write_text("5")  # sets the peak back to what is resident
    yield answer
    lines = status.read_text().splitlines() if status.exists() else []
    answer.append(next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), 0))


def main() -> None:
    """Run the comparison alone and print its numbers as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", help="hub id or folder")
    parser.add_argument("--data", type=Path, help="rows with prompt and completion, JSON a line")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=128, help="most tokens of a row")
    parser.add_argument("--bits", choices=["none", "4bit", "8bit"], default="none")
    parser.add_argument("--cpu", action="store_true", help="float32 on the CPU")
    flags = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    warnings.simplefilter("ignore")
    device = torch.device("cpu" if flags.cpu else "cuda")
    place = Place(device=device, tiny=flags.cpu, model=flags.model, data=flags.data)
    found = check_trl(
        place,
        bits=flags.bits,
        steps=flags.steps,
        batch_size=flags.batch_size,
        most_tokens=flags.tokens,
    )
    print(json.dumps(vars(found), indent=2))


if __name__ == "__main__":
    main()

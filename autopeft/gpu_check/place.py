"""A GPU and the model that `info --gpu` trains on it."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from statistics import median
from typing import Any, cast

import torch
import transformers

from autopeft import space
from autopeft.commands.estimate import StepEstimate, estimate_step
from autopeft.errors import AutopeftError
from autopeft.model import BaseModel, Precision
from autopeft.plugins import Method, Task, discover
from autopeft.train import Bench, EncodedSplit, watched
from autopeft.types import ExecutionSpec, Fidelity, Measurement, ModelSpec, Plan, RunSpec, Status, TaskSpec

# TinyLlama-1.1B: a T4 trains it, and its products are wide enough to keep an H100 busy.
SHAPE = {"hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22, "vocab_size": 32_000}
SHAPE |= {"num_attention_heads": 32, "num_key_value_heads": 4, "max_position_embeddings": 2048}
_RANK, _RATE, _TIMED_STEPS = 16, 5e-4, 8
_WORDS = 1000  # different tokens of the rows, so that a loss falls within some steps


class Gpu:
    """What the checks ask of a GPU; tests pass a fake that computes on the CPU."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.estimated_as = str(device)  # the `--device` of `estimate`

    def facts(self) -> dict[str, Any]:
        """Describe the card and its driver interface."""
        properties = torch.cuda.get_device_properties(self.device)
        return {
            "name": properties.name,
            "gib": round(properties.total_memory / 2**30, 2),
            "capability": f"{properties.major}.{properties.minor}",
            "runtime": f"CUDA {torch.version.cuda}" if torch.version.cuda else f"ROCm {torch.version.hip}",
        }

    def now(self) -> float:
        """Return the time in seconds once the GPU has finished."""
        torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def on_wait(self, mode: str) -> None:
        """Set what torch does if the host waits for the GPU: `error` or `default`."""
        torch.cuda.set_sync_debug_mode(mode)


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A finished run: its measurement, and the loss and the time at the end of each step."""

    measurement: Measurement
    losses: Sequence[float]
    clock: Sequence[float]

    @property
    def step_seconds(self) -> float:
        """The median time of a step, without the first two, which warm up."""
        steps = [end - start for start, end in zip(self.clock[1:-1], self.clock[2:], strict=True)]
        return median(steps)


@dataclass(frozen=True, kw_only=True)
class Place:
    """A GPU, and the model of random weights that the checks train on it."""

    gpu: Gpu
    precision: Precision
    shape: Mapping[str, int] = field(default_factory=lambda: SHAPE)
    n_rows: int = 8
    n_tokens: int = 512

    @cached_property
    def methods(self) -> Mapping[str, Method]:
        """All PEFT methods."""
        return discover("autopeft.methods")

    @cached_property
    def task(self) -> Task:
        """The task of language models."""
        return cast(Task, discover("autopeft.tasks")["text-generation"])

    @cached_property
    def config(self) -> transformers.PretrainedConfig:
        """The config of the model."""
        return transformers.LlamaConfig(**self.shape, architectures=["LlamaForCausalLM"])

    @cached_property
    def base(self) -> BaseModel:
        """The model, on the GPU."""
        torch.manual_seed(0)
        with torch.device(self.gpu.device):
            module = transformers.AutoModelForCausalLM.from_config(
                self.config, dtype=self.precision.torch_dtype
            )
        return BaseModel(module, None, name="random", untrained=frozenset(), precision=self.precision)

    @cached_property
    def plan(self) -> Plan:
        """LoRA on all linear layers."""
        plan = space.plan_everywhere("lora", _RANK, self.base.chosen, self.methods)
        return replace(plan, learning_rate=_RATE)

    @cached_property
    def estimated(self) -> StepEstimate:
        """What `autopeft estimate` predicts of `step`."""
        with tempfile.TemporaryDirectory() as folder:
            self.config.save_pretrained(folder)
            spec = RunSpec(
                model=ModelSpec(id=folder),
                task=TaskSpec(name=self.task.name, batch_size=self.n_rows, max_length=self.n_tokens),
                execution=ExecutionSpec(
                    device=self.gpu.estimated_as, dtype=self.precision.dtype, checkpointing="off"
                ),
            )
            return estimate_step(f"lora_r{_RANK}", spec)

    @cached_property
    def step(self) -> Trained:
        """Some steps of rows of one length, all at once and without checkpointing."""
        bench = self.bench([self.n_tokens] * self.n_rows, batch_size=self.n_rows)
        return self.train(bench, n_steps=_TIMED_STEPS)

    def bench(self, lengths: Sequence[int], *, batch_size: int, **settings: Any) -> Bench:
        """Make a bench on rows of these lengths, each a sequence that counts in steps of its own."""
        rows = [
            [4 + (i * i + k * (i % 3 + 1)) % self._n_words for k in range(n)] for i, n in enumerate(lengths)
        ]
        examples = tuple({"input_ids": row, "attention_mask": [1] * len(row)} for row in rows)
        split = EncodedSplit(examples=examples, labels=tuple(rows))
        return Bench(
            base=self.base,
            task=settings.pop("task", self.task),
            methods=self.methods,
            splits={"train": split, "confirm": split},
            batch_size=batch_size,
            **settings,
        )

    @property
    def _n_words(self) -> int:
        return min(_WORDS, self.shape["vocab_size"] - 4)

    def train(self, bench: Bench, *, n_steps: int) -> Trained:
        """Train the plan; raise AutopeftError if that fails."""
        losses: list[float] = []
        clock: list[float] = []

        def watch(step: int, n: int, loss: Callable[[], float]) -> None:
            losses.append(loss())
            clock.append(self.gpu.now())

        with watched(watch):
            measurement = bench.measure(self.plan, short_run(n_steps, bench.batch_size))
        if measurement.status is not Status.COMPLETE:
            raise AutopeftError(str(measurement.error))
        return Trained(measurement=measurement, losses=losses, clock=clock)


def short_run(n_steps: int, batch_size: int) -> Fidelity:
    """Return the fidelity of some steps that are evaluated on a few rows."""
    n_rows = n_steps * batch_size
    return Fidelity(split="confirm", train_steps=n_steps, train_examples=n_rows, eval_examples=4, seed=0)

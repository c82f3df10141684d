"""Target modules of the base model, plans of adapters for them, measurements, and facts of a metric."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from typing import Literal

from autopeft.types.spec import Component, DataSpec, ModelSpec, TaskSpec
from autopeft.types.text import digest_of, to_json

OptionValue = bool | int | float | str
_LEFT_OUT = {"choices": (), "head_factor": 1.0}  # of a digest at these values
FLOAT32_BYTES = 4  # of a parameter of an adapter or head, which are trained and saved in float32
EvaluatedSplit = Literal["search", "confirm", "test"]
OptionPairs = tuple[tuple[str, OptionValue], ...]

# The roles of target modules in their layer.
ROLE_GROUPS: Mapping[str, Sequence[str]] = {
    "attention": ("q", "k", "v", "kv", "qkv", "pos_q", "pos_k", "o"),
    "recurrent": ("in_proj", "out_proj"),
    "mlp": ("gate", "up", "gate_up", "down"),
}
# Linear layers that compute several of queries, keys and values at once.
FUSED_ROLES: Mapping[str, Sequence[str]] = {"kv": ("k", "v"), "qkv": ("q", "k", "v")}
# The first number between dots is that of the layer: `h.3.attn.c_attn`; others count experts or convolutions.
LAYER = re.compile(r"\.(\d+)\.")


def layer_name(target_name: str) -> str | None:
    """Return the name of the layer that holds a target module; None outside the numbered layers.

    Example:
        >>> layer_name("bert.encoder.layer.3.attention.self.query")
        'bert.encoder.layer.3'
    """
    number = LAYER.search(target_name)
    return target_name[: number.end(1)] if number else None


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How many parameters may be trained. `base_params` counts tied weights once and no task head."""

    max_trainable_params: int
    base_params: int
    requested: str


@dataclass(frozen=True, kw_only=True)
class Target:
    """A module of the base model that an adapter can attach to.

    `layer` is the depth from 0, or None outside the layers (a pooler). `kind` is one of linear, conv1d, norm,
    parameter. `copies` counts matrices of this shape, if the experts of a layer share one parameter. The
    sizes of a `quantized` layer are those of its weights before quantization. With `by_weight`, `peft` takes
    the name of the layer for that of experts, so that a LoRA names its weight among the `target_parameters`.
    """

    name: str
    layer: int | None
    role: str
    kind: str
    in_features: int
    out_features: int
    has_bias: bool
    copies: int = 1
    quantized: bool = False
    component: Component = "other"
    by_weight: bool = False


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """One method at one target module. `rank` is 0 if the method has none; `scale` is alpha / rank.

    The adapter trains at `rate_factor` times the plan's learning rate, so that each method of a mix trains
    within its own range.
    """

    method: str
    target: str
    rank: int = 0
    scale: float = 1.0
    options: OptionPairs = ()
    rate_factor: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Adapters, learning rates and trainer choices. Without adapters only the task head is trained.

    The task head trains at `head_factor` times the rate that is derived for it; `trainable_params` does not
    count it. `choices` are values of the user's own trainer.
    """

    adapters: tuple[Adapter, ...]
    learning_rate: float
    trainable_params: int
    choices: OptionPairs = ()
    head_factor: float = 1.0

    @property
    def lead_method(self) -> str | None:
        """The method with adapters that train at the plan's learning rate itself; None without adapters."""
        lead = next((a for a in self.adapters if a.rate_factor == 1.0), next(iter(self.adapters), None))
        return lead.method if lead else None

    def __hash__(self) -> int:
        """Hash two numbers only: hashing all adapters would take most of a long search's own time."""
        return hash((self.learning_rate, self.trainable_params))

    @cached_property
    def digest(self) -> str:
        """Ten hexadecimal digits of a hash over adapters, learning rates, parameters and choices."""
        content = to_json(self)
        for name, usual in _LEFT_OUT.items():
            if getattr(self, name) == usual:
                del content[name]
        return digest_of(content)

    @property
    def plan_id(self) -> str:
        """The digest, under the name that it has in `result.json` and trackers."""
        return self.digest

    def __repr__(self) -> str:
        """Return one line, however many adapters: methods, modules, parameters, rate and id."""
        n_targets = len({adapter.target for adapter in self.adapters})
        methods = ", ".join(dict.fromkeys(adapter.method for adapter in self.adapters))
        where = f"{methods} at {n_targets} modules" if self.adapters else "no adapters"
        return (
            f"Plan({where}, {self.trainable_params:,} parameters, learning rate {self.learning_rate:.1e}, "
            f"id {self.plan_id})"
        )


@dataclass(frozen=True, kw_only=True)
class PlanDocument:
    """A plan and what is needed to train it again: the content of `plan.yaml`.

    `head_learning_rate` is that of the last layer of the task head, the plan's `head_factor` included; None
    without a head to train.
    """

    plan: Plan
    model: ModelSpec
    data: DataSpec
    task: TaskSpec
    base_params: int
    head_params: int
    schedule: str
    seed: int
    head_learning_rate: float | None = None


@dataclass(frozen=True, kw_only=True)
class Fidelity:
    """How long to train, and the split to evaluate on."""

    split: EvaluatedSplit
    train_steps: int
    train_examples: int
    eval_examples: int
    seed: int


class Status(str, Enum):
    """How a measurement ended.

    DIVERGED: the loss became infinite or NaN. OUT_OF_MEMORY: the plan does not fit in this device's memory.
    FAIL: the run failed for another reason, such as a full disk.
    """

    COMPLETE = "COMPLETE"
    DIVERGED = "DIVERGED"
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    FAIL = "FAIL"

    @property
    def is_of_machine(self) -> bool:
        """Whether the run failed because of the machine; `--resume` tries it again."""
        return self in (Status.OUT_OF_MEMORY, Status.FAIL)


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One run of a plan. If it is not complete, it has an `error` and no metric.

    `example_scores` has one number for each evaluated example in dataset order (for accuracy 0 or 1); their
    mean is the metric. A stored result does not have them, so that equality ignores them. `peak_bytes` is the
    most memory on top of the base model: on a GPU by torch's allocator, else the sum of tensors saved for
    backward, gradients and optimizer state. `trained_steps` are those of this run alone: a full run that
    continues a short one has fewer than its fidelity says. `overhead_seconds` are spent on attaching the
    plan, saving weights and comparing the base model.
    """

    plan: Plan
    fidelity: Fidelity
    status: Status
    metric: float | None = None
    loss: float | None = None
    train_seconds: float = 0.0
    trained_steps: int = 0
    eval_seconds: float = 0.0
    peak_bytes: int = 0
    example_scores: tuple[float, ...] = field(default=(), compare=False)
    error: str | None = None
    overhead_seconds: float = 0.0

    @property
    def reason(self) -> str:
        """The error without its full stop, for use within a sentence; empty without an error."""
        return (self.error or "").rstrip(".")

    @property
    def train_seconds_from_start(self) -> float:
        """Seconds of training from step 0: steps of an earlier short run count at this run's pace."""
        return self.train_seconds * self.fidelity.train_steps / max(1, self.trained_steps)

    @property
    def total_seconds(self) -> float:
        """Seconds of the whole run."""
        return self.train_seconds + self.eval_seconds + self.overhead_seconds


@dataclass(frozen=True, kw_only=True)
class MetricFacts:
    """The facts of the metric by which plans are compared, from the fitted task.

    `is_share` says that it lies in [0, 1]: values are shown in percent, differences in points of 0.01.
    `score_span` is the width of the range of the example scores, 1 for an accuracy; None without bounds, as
    for pseudo-values of an F1. `label` is its name in texts, such as "entity F1"; empty if that is `name`.
    `chance` is the metric of blind guesses, 0 for a correlation; None if that depends on the data.
    """

    name: str
    greater_is_better: bool = True
    is_share: bool = False
    score_span: float | None = None
    label: str = ""
    chance: float | None = None

    @property
    def words(self) -> str:
        """The label, else the name."""
        return self.label or self.name

    @property
    def score_step(self) -> float | None:
        """How far apart two plans' scores of an example can be if they answer it differently.

        1 for pseudo-values of an F1 or a correlation; None for losses, which differ for any two plans, and
        for a metric of the user, whose unit is unknown.
        """
        has_unit = self.is_share or self.chance is not None
        return 1.0 if self.score_span is None and has_unit else self.score_span

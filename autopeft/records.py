"""The frozen records that pass between modules, and their one way to and from JSON.

Nothing here imports torch. Records are keyword-only and hold tuples, so that a
`Plan` can be a dictionary key and a finished `Measurement` cannot change.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from enum import Enum
from functools import cache
from typing import Any, Literal, TypeVar, cast

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

Record = TypeVar("Record")
OptionValue = bool | int | float | str
Options = tuple[tuple[str, OptionValue], ...]
MAX_SEED = 2**32 - 1  # numpy's older generators, which Optuna uses, take no more


# What the user asked: nested by topic, checked by pydantic, unknown keys refused.


class _Topic(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelSpec(_Topic):
    """Which base model; `id` None means the demo model."""

    id: str | None = None
    revision: str | None = None


class DataSpec(_Topic):
    """Which dataset and which of its columns; `source` None means the sample dataset."""

    source: str | None = Field(default=None, min_length=1)
    config_name: str | None = None
    text_columns: tuple[str, ...] = ()
    label_column: str | None = None
    max_examples: int | None = Field(default=None, ge=1)


class TaskSpec(_Topic):
    """The task, and what one full training run of it is.

    `max_steps`, where given, overrides `epochs`. `max_length` is in tokens.
    """

    name: str = "text-classification"
    epochs: float = Field(default=3.0, gt=0)
    max_steps: int | None = Field(default=None, ge=1)
    batch_size: int = Field(default=32, ge=1)
    max_length: int = Field(default=128, ge=2)


class BudgetSpec(_Topic):
    """How many parameters may be trained, as the user wrote it (`0.5%`, `300k`, `113000`)."""

    requested: str = "0.5%"
    count_head: bool = False


class SearchSpec(_Topic):
    """How to look: the space, the proposals, the score that orders sites, the seed.

    `serve_on` keeps to what some servers read: vllm, tgi, llama.cpp, or any of them.
    """

    space: str = "default"
    methods: tuple[str, ...] = ()
    serve_on: tuple[Literal["vllm", "tgi", "llama.cpp", "any"], ...] = ()
    trials: int = Field(default=24, ge=1)
    score: str = "gradient"
    max_time_seconds: float | None = Field(default=None, gt=0)
    seed: int = Field(default=0, ge=0, le=MAX_SEED)


class ConfirmSpec(_Topic):
    """How to confirm: at full or half length or not at all, on how many seeds, within which margin.

    `margin` is in units of the metric (0.01 is one point of accuracy).
    """

    fidelity: str = Field(default="full", pattern="^(full|half|none)$")
    seeds: int = Field(default=3, ge=2, le=10)
    margin: float = Field(default=0.01, gt=0)


class ExecutionSpec(_Topic):
    """Where measurements run."""

    executor: str = "serial"
    workers: int = Field(default=1, ge=1)


class OutputSpec(_Topic):
    """Where the run directory goes; None means a fresh one under `reports/`."""

    out: str | None = None


class RunSpec(_Topic):
    """Everything a user may ask of one run; only names and numbers."""

    model: ModelSpec = ModelSpec()
    data: DataSpec = DataSpec()
    task: TaskSpec = TaskSpec()
    budget: BudgetSpec = BudgetSpec()
    search: SearchSpec = SearchSpec()
    confirm: ConfirmSpec = ConfirmSpec()
    execution: ExecutionSpec = ExecutionSpec()
    output: OutputSpec = OutputSpec()


# What the base model offers, and what a plan does with it.


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What may be spent. `base_params` counts tied weights once and no task head."""

    max_trainable_params: int
    base_params: int
    requested: str


@dataclass(frozen=True, kw_only=True)
class Site:
    """One place in the base model that can take an adapter.

    `layer` is the depth from 0, or None outside the stack (a pooler). `kind` is one
    of linear, conv1d, norm, embedding, parameter, model. `copies` is how many matrices of that
    shape the site holds: the experts of a layer that are kept in one parameter.
    """

    name: str
    layer: int | None
    role: str
    kind: str
    in_features: int
    out_features: int
    has_bias: bool
    copies: int = 1


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """One method at one site. `rank` is 0 where the method has none; `scale` is alpha / r.

    It trains at `rate_factor` times the plan's learning rate: where a plan mixes methods, each
    keeps to its own range.
    """

    method: str
    site: str
    rank: int = 0
    scale: float = 1.0
    options: Options = ()
    rate_factor: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A whole proposal. No adapters means that the task head alone is trained.

    `trainable_params` does not count the task head.
    """

    adapters: tuple[Adapter, ...]
    learning_rate: float
    trainable_params: int

    @property
    def digest(self) -> str:
        """Ten hexadecimal digits that are equal exactly where the plans are."""
        return digest_of(to_json(self))

    @property
    def placement_digest(self) -> str:
        """The same for the adapters alone, whatever their learning rate."""
        return digest_of([to_json(adapter) for adapter in self.adapters])


@dataclass(frozen=True, kw_only=True)
class PlanDocument:
    """A plan and what it takes to repeat it: the content of `plan.yaml`."""

    plan: Plan
    model: ModelSpec
    data: DataSpec
    task: TaskSpec
    base_params: int
    head_params: int
    schedule: str
    seed: int


@dataclass(frozen=True, kw_only=True)
class Fidelity:
    """How hard to look, and on what. `split` is the one evaluated on: search, confirm or test."""

    split: str
    train_steps: int
    train_examples: int
    eval_examples: int
    seed: int


class Status(str, Enum):
    """How a measurement ended; Optuna's words."""

    COMPLETE = "COMPLETE"
    FAIL = "FAIL"


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One run, good or bad. A failed run has `error` and no metric.

    `example_scores` holds one number per evaluated example in dataset order (for
    accuracy 0 or 1) whose mean is the metric, so that plans can be compared in pairs.
    `peak_bytes` counts tensors saved for backward, gradients and optimizer state.
    """

    plan: Plan
    fidelity: Fidelity
    status: Status
    metric: float | None = None
    loss: float | None = None
    train_seconds: float = 0.0
    eval_seconds: float = 0.0
    peak_bytes: int = 0
    example_scores: tuple[float, ...] = ()
    error: str | None = None


# What a search leaves.


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """One trial of the study: which arm it belongs to, who proposed it, and its plan.

    `source` is enqueued, sampler or random; `arm` is method × placement family
    ("lora/all", "head", "baseline").
    """

    trial: int
    arm: str
    source: str
    plan: Plan


@dataclass(frozen=True, kw_only=True)
class SiteScores:
    """One importance score; `values` stand in the order of the result's sites, all >= 0."""

    name: str
    values: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class SplitSizes:
    """Examples in each split; `test` is 0 where the user has none."""

    train: int
    search: int
    confirm: int
    test: int
    duplicates_removed: int = 0


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What the search was about: model, task, metric, budget, splits, one full run.

    `base_model` is what to call the model, `base_model_source` what loads it.
    """

    base_model: str
    base_model_source: str
    model_type: str
    data: str
    task: str
    metric: str
    greater_is_better: bool
    budget: Budget
    head_params: int
    splits: SplitSizes
    full_run_steps: int
    label_names: tuple[str, ...] = ()
    data_fingerprint: str = ""


@dataclass(frozen=True, kw_only=True)
class Confirmation:
    """One plan trained again on fresh seeds: `metrics` holds one value per seed, in seed order.

    `train_seconds` is the mean over the seeds.
    """

    name: str
    plan: Plan
    split: str
    metric_mean: float
    metric_std_error: float
    seeds: tuple[int, ...]
    metrics: tuple[float, ...]
    mean_loss: float
    train_seconds: float


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Best against baseline, in units of the metric; positive differences favour the best plan.

    `label` is better, equivalent, worse, inconclusive, or none where there was no confirmation.
    `smallest_equivalent` says how `smallest` stands: proven, unproven, or the best itself.
    """

    label: str
    mean_difference: float | None
    interval_95: tuple[float, float] | None
    margin: float
    fidelity: str
    smallest_equivalent: str
    sentence: str


@dataclass(frozen=True, kw_only=True)
class Proxy:
    """How well the first rung ranked the plans that reached the next one (Spearman on the loss)."""

    rank_correlation: float | None
    n_plans: int
    rung_steps: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What the run took. `full_runs` is `search_seconds / full_run_seconds`, the cost in R."""

    sensitivity_seconds: float
    search_seconds: float
    confirm_seconds: float
    full_run_seconds: float
    full_runs: float
    examples_seen: int


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """All that the report needs. `confirmations` and `test` are empty where there were none."""

    spec: RunSpec
    setting: Setting
    sites: tuple[Site, ...]
    scores: tuple[SiteScores, ...]
    proposals: tuple[Proposal, ...]
    measurements: tuple[Measurement, ...]
    best: Plan
    smallest: Plan
    baseline: Plan
    confirmations: tuple[Confirmation, ...]
    test: tuple[Confirmation, ...]
    verdict: Verdict
    proxy: Proxy
    cost: Cost
    environment: dict[str, str] = field(default_factory=dict)


def to_json(record: Any) -> Any:
    """Plain dictionaries, lists, strings and numbers that stand for a record."""
    return _adapter(cast(Any, type(record))).dump_python(record, mode="json")


def from_json(kind: type[Record], content: Any) -> Record:
    """The record that `to_json` was given; raises pydantic's ValidationError on other content."""
    return cast(Record, _adapter(cast(Any, kind)).validate_python(content))


def digest_of(content: Any) -> str:
    """Ten hexadecimal digits of the SHA-256 of some JSON content, independent of key order."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:10]


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)

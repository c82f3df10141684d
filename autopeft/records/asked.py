"""What the user asked: nested by topic, checked by pydantic, unknown keys refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

MAX_SEED = 2**32 - 1  # numpy's older generators, which Optuna uses, take no more


# Stands where a name would, for a model or dataset that was passed beside the settings.
IN_MEMORY = "<in memory>"


# What `transformers` is asked for, by the word that the user gives.
QUANTISED: Mapping[str, Mapping[str, bool | str]] = {
    "4bit": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True},
    "8bit": {"load_in_8bit": True},
}


class _Topic(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelSpec(_Topic):
    """Which base model; `id` None means the demo model.

    `quantize` holds its linear maps in few bits, by bitsandbytes.
    """

    id: str | None = None
    revision: str | None = None
    quantize: Literal["none", "4bit", "8bit"] = "none"


class DataSpec(_Topic):
    """Which dataset and which of its columns; `source` None means the sample dataset.

    `text_columns` are the columns of whatever goes in (texts, tokens, a prompt, image files).
    `label_kind` says what the label column holds where its looks mislead. Rows of one group (`group_column`)
    stay in one split; by `time_column` what is cut out of train is its latest rows. `streaming` reads only
    the first rows of a hub dataset, as many as `max_examples` asks for.
    """

    source: str | None = Field(default=None, min_length=1)
    config_name: str | None = None
    text_columns: tuple[str, ...] = ()
    label_column: str | None = None
    label_kind: Literal["class", "classes", "number"] | None = None
    group_column: str | None = None
    time_column: str | None = None
    max_examples: int | None = Field(default=None, ge=1)
    streaming: bool = False


class TaskSpec(_Topic):
    """The task, and what one full training run of it is.

    `max_steps`, where given, overrides `epochs`. `max_length` is in tokens. `metric` None takes the
    task's own. `answer_pattern` is a regular expression whose first group (or whole match) is the answer in a
    generated text, for the metric `exact-match`; `max_new_tokens` bounds what is generated.
    """

    name: str = "text-classification"
    metric: str | None = None
    answer_pattern: str | None = None
    max_new_tokens: int = Field(default=64, ge=1)
    epochs: float = Field(default=3.0, gt=0)
    max_steps: int | None = Field(default=None, ge=1)
    batch_size: int = Field(default=32, ge=1)
    max_length: int = Field(default=128, ge=2)


class BudgetSpec(_Topic):
    """How many parameters may be trained, as the user wrote it (`0.5%`, `300k`, `113000`)."""

    requested: str = "0.5%"
    count_head: bool = False


class _StopRules(_Topic):
    """When a search ends, whichever comes first; `max_cost` is in R, full runs of the baseline.

    `patience` is how many sampled proposals in a row may bring nothing better.
    """

    trials: int = Field(default=24, ge=1)
    max_time_seconds: float | None = Field(default=None, gt=0)
    max_cost: float | None = Field(default=None, gt=0)
    patience: int | None = Field(default=None, ge=1)


class SearchSpec(_StopRules):
    """How to look: the space, the proposals, the race, the score that orders sites, the seed.

    `serve_on` keeps to what some servers read: vllm, tgi, llama.cpp, or any of them. `warm_start`
    is a plan.yaml or a run, `baseline` one of these or an adapter_config.json or its folder.
    """

    space: str = "default"
    methods: tuple[str, ...] = ()
    serve_on: tuple[Literal["vllm", "tgi", "llama.cpp", "any"], ...] = ()
    sampler: Literal["tpe", "random", "qmc", "gp"] = "tpe"
    strategy: Literal["halving", "topk", "random"] = "halving"
    objective: Literal["score", "params", "pareto"] = "score"
    warm_start: str | None = Field(default=None, min_length=1)
    baseline: str | None = Field(default=None, min_length=1)
    score: str = "gradient"
    seed: int = Field(default=0, ge=0, le=MAX_SEED)


class LimitSpec(_Topic):
    """What a plan may cost beside its parameters; None sets no limit.

    `max_step_time` is relative to plain LoRA at the same sites; bytes are those of one training run
    and of the adapter's file.
    """

    max_rank: int | None = Field(default=None, ge=1)
    mergeable: bool = False
    max_step_time: float | None = Field(default=None, gt=0)
    max_peak_bytes: int | None = Field(default=None, ge=1)
    max_adapter_bytes: int | None = Field(default=None, ge=1)


class ConfirmSpec(_Topic):
    """How to confirm: at full or half length or not at all, on how many seeds at most, within which margin.

    `margin` is in units of the metric (0.01 is one point of accuracy); None is 0.01, and of a metric
    without bounds, such as a loss, 1 % of the baseline's.
    """

    fidelity: str = Field(default="full", pattern="^(full|half|none)$")
    seeds: int = Field(default=5, ge=2, le=10)
    margin: float | None = Field(default=None, gt=0)


class ForgettingSpec(_Topic):
    """General text on which confirmed plans are held against the base model; `source` None asks for nothing.

    `source` is what `data.source` may be, with plain text; `text_column` None is found by name.
    """

    source: str | None = Field(default=None, min_length=1)
    config_name: str | None = None
    text_column: str | None = None


class ExecutionSpec(_Topic):
    """Where measurements run, and in which numbers.

    `device` is torch's word (cpu, cuda, cuda:1, mps); None takes a GPU where there is one. Weights are
    float32 where they are not quantised; with `dtype` bfloat16 training and evaluation compute in it where
    torch's autocast does.
    """

    executor: str = "serial"
    workers: int = Field(default=1, ge=1)
    device: str | None = Field(default=None, min_length=1)
    dtype: Literal["float32", "bfloat16"] = "float32"


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
    limits: LimitSpec = LimitSpec()
    confirm: ConfirmSpec = ConfirmSpec()
    forgetting: ForgettingSpec = ForgettingSpec()
    execution: ExecutionSpec = ExecutionSpec()
    output: OutputSpec = OutputSpec()

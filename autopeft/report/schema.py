"""The JSON Schema of result.json, made from these models; `docs/result.schema.json` is the published copy.

Every key of the file is declared here, or in the record that is written as it is.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from autopeft.records import Budget, Cost, GeneralText, Plan, Proxy, RunSpec, ScorePair, SplitSizes, Verdict
from autopeft.report.helped import Against

_Count = Annotated[int, Field(ge=0)]


class _Keys(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Numbers(_Keys):
    """One plan on one split: `metrics` has one value per seed; null and empty where it was not measured."""

    metric_mean: float | None
    metric_std_error: float | None
    seeds: tuple[_Count, ...]
    metrics: tuple[float | None, ...]


class PlanAnswer(Numbers):
    """A plan and its confirmation.

    `plan_id` is the plan's digest, under which `trials.csv` has it; `digest` is the same under its older
    name. `percent` is of the base model's parameters. `learning_rate_position` is the place of the rate in
    the range that was searched, 0 the lowest and 1 the highest.
    """

    plan: Plan
    plan_id: str
    digest: str
    trainable_params: _Count
    head_params: _Count
    learning_rate_position: float | None
    percent: Annotated[float, Field(ge=0, le=100)]


class BestAnswer(PlanAnswer):
    """The plan that is handed over; `plan_path` is relative to the folder of the run."""

    plan_path: str


class BaselineAnswer(PlanAnswer):
    """The best baseline, with the words for it and its learning rate."""

    name: str
    learning_rate: float


class TestNumbers(_Keys):
    """The plans for which the test split was read."""

    best: Numbers
    smallest: Numbers
    baseline: Numbers


class FrontPlan(_Keys):
    """A plan of the last rung that no other beats on loss and parameters; `plan` is its id."""

    plan: str
    trainable_params: _Count
    loss: float | None
    metric: float | None


class BaseLoss(_Keys):
    """The base model on general text: loss in nats per token."""

    loss: float
    perplexity: float


class PlanLoss(_Keys):
    """A confirmed plan on general text; `difference` is after minus before: above 0 it forgot."""

    digest: str
    loss_mean: float
    loss_std: float | None
    perplexity: float
    difference: float
    seeds: tuple[_Count, ...]
    losses: tuple[float, ...]


class ForgettingAnswer(_Keys):
    """Loss on general text before and after adaptation; plans that were not measured are absent."""

    text: GeneralText
    base: BaseLoss
    best: PlanLoss | None = None
    smallest: PlanLoss | None = None
    baseline: PlanLoss | None = None
    seconds: Annotated[float, Field(ge=0)]


class SingleSites(_Keys):
    """Spearman's rho between the score of a site and the low loss of a plan of this site alone."""

    rank_correlation: Annotated[float, Field(ge=-1, le=1)]
    n_sites: _Count


class ScoreTrust(_Keys):
    """How far a score agrees between two halves of its examples (Spearman's rho)."""

    name: str
    split_half: float | None
    n_examples: _Count


class SensitivityAnswer(_Keys):
    """Whether the score that ordered the sites lowered the loss; null where the pairs leave it open."""

    score: str
    helped: bool | None
    sentence: str
    against: tuple[Against, ...]
    single_sites: SingleSites | None
    pairs: tuple[ScorePair, ...]
    scores: tuple[ScoreTrust, ...]


class ResultFile(_Keys):
    """The answer of a run. Numbers that do not exist are null: JSON has no NaN and no infinity."""

    schema_version: Literal[1]
    status: str
    base_model: str
    data: str
    task: str
    metric: str
    greater_is_better: bool
    label_names: tuple[str, ...]
    budget: Budget
    best: BestAnswer
    smallest: PlanAnswer
    baseline: BaselineAnswer
    head: PlanAnswer | None
    verdict: Verdict
    test: TestNumbers | None
    forgetting: ForgettingAnswer | None
    sentences: tuple[str, ...]
    front: tuple[FrontPlan, ...]
    proxy: Proxy
    sensitivity: SensitivityAnswer
    cost: Cost
    splits: SplitSizes
    settings: RunSpec
    environment: dict[str, str]


def result_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of result.json."""
    schema = ResultFile.model_json_schema(mode="serialization")
    dialect = "https://json-schema.org/draft/2020-12/schema"
    return {"$schema": dialect, "title": "result.json of an autopeft run", **schema}

"""Models of result.json and of a row of trials.csv, from which the JSON Schemas in `docs/` are made.

`result_files` fills them, and writes their keys in the order that they have here. A model with several bases
has the keys of its last base first.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from autopeft.types import Budget, Cost, Plan, RunSpec, SplitSizes, Status, Verdict

_Count = Annotated[int, Field(ge=0)]
_Seconds = Annotated[float, Field(ge=0)]


class _Keys(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Numbers(_Keys):
    """One plan on one split; `metrics` has one value per seed."""

    metric_mean: float | None
    metric_std_error: float | None
    seeds: tuple[_Count, ...]
    metrics: tuple[float | None, ...]


class PlanFacts(_Keys):
    """A plan.

    `plan_id` is the plan's name in every file of a run. `share_of_base` is the share of the base model's
    parameters, in [0, 1]. `learning_rate_position` is the position of the rate in the range that was
    searched, from 0 to 1.
    """

    plan: Plan
    plan_id: str
    trainable_params: _Count
    head_params: _Count
    learning_rate_position: float | None
    share_of_base: Annotated[float, Field(ge=0, le=1)]


class PlanAnswer(Numbers, PlanFacts):
    """A plan and its full run on the confirm split."""


class Named(_Keys):
    """A name."""

    name: str


class BestAnswer(PlanAnswer):
    """The plan that is returned; `plan_path` is relative to the folder of the run."""

    plan_path: str


class BaselineAnswer(PlanAnswer, Named):
    """The default that was compared, with its arm and its learning rate."""

    learning_rate: float


class FullRunAnswer(Numbers, Named):
    """A finalist: `name` is best, baseline, challenger, or its arm; `train_seconds` is a mean over seeds."""

    plan_id: str
    trainable_params: _Count
    learning_rate: float
    mean_loss: float | None
    train_seconds: _Seconds


class RefitAnswer(_Keys):
    """The best plan trained on all rows but those of test; `best/weights` is this adapter."""

    train_rows: _Count
    train_steps: _Count
    seconds: float
    test: Numbers | None


class TestNumbers(_Keys):
    """The plans for which the test split was read."""

    best: Numbers
    baseline: Numbers


class SizeAnswer(PlanFacts):
    """The best plan of a smaller budget, trained in full with one seed and compared with the best plan.

    `share` is that of the budget, `seconds` are those of all its runs. Negative differences are losses.
    """

    share: Annotated[float, Field(gt=0, lt=1)]
    max_trainable_params: _Count
    arm: str
    metric_mean: float | None
    mean_difference: float
    interval_95: tuple[float, float]
    seconds: _Seconds


class ScoreTrust(_Keys):
    """How far a score agrees between two halves of its examples (Spearman's rho)."""

    name: str
    split_half: float | None
    n_examples: _Count


class SensitivityAnswer(_Keys):
    """The score that ordered the target modules, and how far each score can be trusted."""

    score: str
    scores: tuple[ScoreTrust, ...]


class ResultFile(_Keys):
    """The answer of a run. Numbers that do not exist are null: JSON has no NaN and no infinity.

    `challenger` is the plan that the verdict compares with the baseline, null if nothing else finished a full
    run.
    """

    schema_version: Literal[3]
    status: str
    base_model: str
    data: str
    task: str
    metric: str
    greater_is_better: bool
    label_names: tuple[str, ...]
    budget: Budget
    best: BestAnswer
    baseline: BaselineAnswer
    challenger: PlanAnswer | None
    verdict: Verdict
    test: TestNumbers | None
    refit: RefitAnswer | None
    full_runs: tuple[FullRunAnswer, ...]
    sizes: tuple[SizeAnswer, ...]
    sentences: tuple[str, ...]
    short_steps: _Count
    sensitivity: SensitivityAnswer
    cost: Cost
    splits: SplitSizes
    settings: RunSpec
    environment: dict[str, str]


class TrialRow(_Keys):
    """One row of trials.csv: one measurement. An empty cell stands for null.

    `ranks` is one number, or the lowest and the highest; null without ranks. `trial` is the first that
    proposed the plan, null if none did. `arm` is what proposed it: the arm of that trial, the name of a
    finalist, or `smaller budget`. Seconds are null if they were not counted; `train_seconds` of a run that
    broke off are all that it took.
    """

    trial: _Count | None
    arm: str
    plan_id: str
    methods: str | None
    ranks: str | None
    n_targets: _Count
    trainable_params: _Count
    learning_rate: Annotated[float, Field(ge=0)]
    seed: _Count
    status: Status
    split: str
    metric: float | None
    loss: float | None
    train_steps: _Count
    train_examples: _Count
    train_seconds: _Seconds | None
    eval_examples: _Count
    eval_seconds: _Seconds | None
    peak_bytes: _Count
    learning_rate_position: float | None
    overhead_seconds: _Seconds | None
    trained_steps: _Count

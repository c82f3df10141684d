"""The results of an analysis and of a search."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

from autopeft.types.plans import Budget, Measurement, Plan, Target
from autopeft.types.spec import SETTINGS, RunSpec

ProposalSource = Literal["list", "sampler"]
SIZE_SCORE = "parameters"  # reads no example: orders target modules if one example does not fit in memory
SEEN_ENOUGH = 0.95  # rank correlation of two halves of the examples: more change little; heuristic
_Z_95 = 1.96  # standard errors of a 95 % interval
ArmKind = Literal["baseline", "head", "usual", "sampled", "given"]


@dataclass(frozen=True, kw_only=True)
class Arm:
    """Where a plan comes from. Arms with the same label are equal.

    `kind` is baseline (the default LoRA), head (no adapters), usual (another listed plan), sampled (by the
    sampler) or given (by the user).
    """

    kind: ArmKind = field(compare=False)
    label: str

    def __str__(self) -> str:
        """Return the text for tables and the study: `lora/all`, `baseline: LoRA on all linear layers`."""
        return f"{self.kind}: {self.label}" if self.kind in ("baseline", "given") else self.label


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """One trial of the study: its arm, its plan, and whether it was listed or the sampler proposed it."""

    trial: int
    arm: Arm
    source: ProposalSource
    plan: Plan


def proposal_of(plan: Plan, proposals: Sequence[Proposal]) -> Proposal | None:
    """Return the first trial of a plan, or of the same plan with the usual head's rate; None without one."""
    usual = replace(plan, head_factor=1.0)
    return next((proposal for proposal in proposals if proposal.plan == usual), None)


@dataclass(frozen=True, kw_only=True)
class TargetScores:
    """One importance score, with a value >= 0 for each target module of the result, in their order.

    `split_half` is Spearman's rho between two halves of the examples; None for a single example. `n_examples`
    is 0 for a score that needs no examples.
    """

    name: str
    values: tuple[float, ...]
    split_half: float | None = None
    n_examples: int = 0

    @property
    def is_zero(self) -> bool:
        """Whether the score is 0 at every target module, so that it cannot order them."""
        return bool(self.values) and not any(self.values)


@dataclass(frozen=True, kw_only=True)
class Sensitivity:
    """The scores of one pass over some examples, and its cost.

    `unreachable` names the target modules that no gradient reached; they score 0. `peak_bytes` is the
    allocator's number on a GPU, and 0 on a CPU.
    """

    scores: tuple[TargetScores, ...]
    n_examples: int
    n_asked: int
    seconds: float
    peak_bytes: int
    unreachable: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Decision:
    """A setting that the user left open: its dotted name, the value that autopeft derived, and the rule."""

    setting: str
    value: str
    rule: str

    def __str__(self) -> str:
        """Return a line with the flag that overrides it: `--batch-size 8: about 2,048 tokens a step`."""
        return f"{self.subject} {self.value}: {self.rule}"

    @property
    def subject(self) -> str:
        """The flag of the setting; its dotted name if it is always derived."""
        return SETTINGS[self.setting].flag if self.setting in SETTINGS else self.setting


@dataclass(frozen=True, kw_only=True)
class SplitSizes:
    """Examples in each split; `test` is 0 if the user has none.

    `confirm_groups` and `test_groups` count the groups of the evaluated examples; 0 if standard errors are
    over examples.
    """

    train: int
    search: int
    confirm: int
    test: int
    duplicates_removed: int = 0
    confirm_groups: int = 0
    test_groups: int = 0


@dataclass(frozen=True, kw_only=True)
class SearchFacts:
    """The facts of a search: model, task, metric, budget, splits, length of a full run.

    - `base_model_source`: the id or path that loads the model.
    - `unquantized`: the modules of a quantized model that are not quantized.
    - `learning_rate_ranges`: the lowest and the highest rate of each method, and under "" of the head alone.
    - `metric_is_share`: whether the metric lies in [0, 1] and is shown in percent. `metric_label` is its name
      in texts; empty if that is `metric`.
    - `lacking`: sentences on weights that are missing in the base model's checkpoint.
    - `chance`: the metric of guesses, see `setup.search_facts.chance_of`.
    - `auto_class`: the class that loads the model of a user's trainer; empty if the task has it.
    - `label_kind`: what the labels are (see `plugins.LabelSpace`); empty in runs of a user's trainer.
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
    unquantized: tuple[str, ...] = ()
    learning_rate_ranges: dict[str, tuple[float, float]] = field(default_factory=dict)
    metric_is_share: bool = False
    decisions: tuple[Decision, ...] = ()
    lacking: str = ""
    chance: float | None = None
    metric_label: str = ""
    auto_class: str = ""
    label_kind: str = ""
    input_columns: tuple[str, ...] = ()

    @property
    def metric_words(self) -> str:
        """The name of the metric in texts."""
        return self.metric_label or self.metric


@dataclass(frozen=True, kw_only=True)
class FullRun:
    """One plan trained in full and evaluated on a split; `metrics` has one value per seed.

    `name` is best, baseline, challenger, or the label of its arm. `train_seconds` is a mean.
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

    def is_surely_above(self, metric: float) -> bool:
        """Whether the 95 % interval of the mean is above a value of the metric."""
        return self.metric_mean - _Z_95 * self.metric_std_error > metric


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The best challenger against the baseline, in units of the metric; above 0 the challenger is better.

    `label` is better, `as good and smaller`, inconclusive (the challenger is returned, and the interval
    contains 0), or `default kept` (the baseline is returned). Without a challenger there is no difference.
    """

    label: str
    mean_difference: float | None
    interval_95: tuple[float, float] | None
    margin: float
    sentence: str
    n_examples: int = 0
    n_seeds: int = 1


@dataclass(frozen=True, kw_only=True)
class SizeStep:
    """The best plan of a smaller budget, trained in full with the seed of the best plan and compared with it.

    `share` is the smaller budget over the whole one. A negative difference is what the smaller plan loses.
    """

    share: float
    max_trainable_params: int
    plan: Plan
    arm: Arm
    metric_mean: float
    mean_difference: float
    interval_95: tuple[float, float]
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Refit:
    """The best plan trained again on all rows but those of test; its adapter is the one returned.

    `measurement` is on the test split if there is one, else without a score; `test` is its record there. The
    verdict is that of the judged adapters.
    """

    train_rows: int
    train_steps: int
    seconds: float
    measurement: Measurement
    test: FullRun | None = None


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Seconds by stage, each with the overhead of its runs; a resumed run counts every measurement.

    - `search_seconds`, `full_seconds`: all short runs, and all full runs on the confirm split.
    - `sizes_seconds`: runs for smaller budgets, which are part of the two above.
    - `full_run_seconds`: one full run of the baseline, R; None where no plan was trained.
    - `total_full_runs`: `total_seconds` in R.
    - `train_seconds`, `eval_seconds`: the same seconds by kind of work.
    - `load_seconds`: loading, before the first stage.
    """

    sensitivity_seconds: float
    search_seconds: float
    full_seconds: float
    sizes_seconds: float
    test_seconds: float
    full_run_seconds: float | None
    load_seconds: float
    train_seconds: float
    eval_seconds: float
    total_seconds: float
    total_full_runs: float | None
    refit_seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a search found.

    `best` is the plan that is returned; `challenger` is the one that the verdict compares with the baseline,
    None without one. `full_runs` has one record for each plan that was trained in full, on the confirm split;
    `test` has those of best and baseline on the test split, if there is one.
    """

    proposals: tuple[Proposal, ...]
    measurements: tuple[Measurement, ...]
    best: Plan
    baseline: Plan
    challenger: Plan | None
    full_runs: tuple[FullRun, ...]
    test: tuple[FullRun, ...]
    verdict: Verdict
    sizes: tuple[SizeStep, ...] = ()

    @property
    def short_steps(self) -> int:
        """Steps of a short run; 0 without short runs."""
        short = (m.fidelity.train_steps for m in self.measurements if m.fidelity.split == "search")
        return max(short, default=0)


@dataclass(frozen=True, kw_only=True)
class SearchResult(Outcome):
    """The outcome of a search with everything that its report needs."""

    spec: RunSpec
    setting: SearchFacts
    targets: tuple[Target, ...]
    scores: tuple[TargetScores, ...]
    cost: Cost
    environment: dict[str, str] = field(default_factory=dict)
    refit: Refit | None = None


@dataclass(frozen=True, kw_only=True)
class SearchSoFar:
    """What an unfinished search has measured, for a report without best plan and full runs."""

    best: ClassVar[None] = None
    baseline: ClassVar[None] = None
    challenger: ClassVar[None] = None
    full_runs: ClassVar[tuple[FullRun, ...]] = ()
    sizes: ClassVar[tuple[SizeStep, ...]] = ()
    spec: RunSpec
    setting: SearchFacts
    targets: tuple[Target, ...]
    scores: tuple[TargetScores, ...]
    environment: dict[str, str]
    proposals: tuple[Proposal, ...] = ()
    measurements: tuple[Measurement, ...] = ()


@dataclass(frozen=True, kw_only=True)
class TrainedPlan:
    """A plan that `train` trained in full, and what its model card needs."""

    spec: RunSpec
    setting: SearchFacts
    best: Plan
    measurement: Measurement
    environment: dict[str, str] = field(default_factory=dict)

"""The results of an analysis and of a search."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

from autopeft.records.plans import Budget, Measurement, Plan, Site
from autopeft.records.spec import SETTINGS, RunSpec

ProposalSource = Literal["enqueued", "sampler", "random", "refined", "evened", "retuned"]
_Z_95 = 1.96  # standard errors of a 95 % interval
ArmKind = Literal["baseline", "head", "usual", "sampled", "given"]


@dataclass(frozen=True, kw_only=True)
class Arm:
    """Where a plan comes from. Arms are equal where their labels are.

    `kind` is baseline (LoRA as people write it), head (no adapters), usual (a policy of the space that comes
    first), sampled (any policy of the space) or given (by the user). A usual and a sampled policy with the
    same label, such as `ia3/all`, are one arm, since the learning rates of an arm are counted over both.
    `methods` names the method of each part of such a policy, in order; it is empty for the other kinds.
    """

    kind: ArmKind = field(compare=False)
    label: str
    methods: tuple[str, ...] = field(default=(), compare=False)

    def __str__(self) -> str:
        """The text in tables and in the study: `lora/all`, `head`, `baseline: LoRA on all linear maps`."""
        return f"{self.kind}: {self.label}" if self.kind in ("baseline", "given") else self.label


def _read_arm(content: Any) -> Any:
    """Versions before 0.2.0 stored an arm as its text; no part of a report asks for the kind."""
    return Arm(kind="sampled", label=content) if isinstance(content, str) else content


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """One trial of the study: its arm, who proposed it, and its plan.

    `source` is enqueued, sampler, random or retuned (a finalist at a lower learning rate); in runs of earlier
    versions also refined or evened.
    """

    trial: int
    arm: Annotated[Arm, BeforeValidator(_read_arm)]
    source: ProposalSource
    plan: Plan


@dataclass(frozen=True, kw_only=True)
class SiteScores:
    """One importance score; `values` has one value >= 0 for each site of the result, in their order.

    `split_half` is Spearman's rho over sites between two halves of the examples, None where it is undefined.
    `n_examples` is 0 for a score that needs none.
    """

    name: str
    values: tuple[float, ...]
    split_half: float | None = None
    n_examples: int = 0

    @property
    def is_zero(self) -> bool:
        """Whether the score is 0 at every site, so that it tells none apart."""
        return bool(self.values) and not any(self.values)


@dataclass(frozen=True, kw_only=True)
class Sensitivity:
    """The scores of one pass over some examples, and its cost.

    `unreachable` names the sites that no gradient reached; they score 0. `peak_bytes` is the
    allocator's number on a GPU. On a CPU it counts the tensors for the backward pass of the largest batch and
    those that the scores have gathered, without the base model.
    """

    scores: tuple[SiteScores, ...]
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
        """One line with the flag that overrides the decision: `--batch-size 8: about 2,048 tokens a step`.

        A setting without a flag has its dotted name there.
        """
        return f"{self.subject} {self.value}: {self.rule}"

    @property
    def subject(self) -> str:
        """The flag of the setting; the dotted name of what has none, or is always derived."""
        field = SETTINGS.get(self.setting)
        return (field and field.flag) or self.setting


@dataclass(frozen=True, kw_only=True)
class SplitSizes:
    """Examples in each split; `test` is 0 where the user has none.

    `confirm_groups` and `test_groups` are the groups of the evaluated examples, which standard errors count
    in place of examples; 0 where each example counts, as it does where all are of one group.
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

    `base_model_source` is the id or path that loads the model; `unquantised` names the modules of a quantised
    model that stay in plain numbers. `learning_rate_ranges` maps each method, and the empty name for the head
    alone, to the lowest and the highest rate that was searched. `metric_is_share` says whether the metric
    lies in [0, 1] and is shown in percent; None in runs from before version 0.2.0. `decisions` are the
    settings that the run derived. `text_form` says how the texts of a row become one, `lacking` what the
    base model's checkpoint has no weights for. `chance` is the metric of guesses: of always giving the most
    frequent label of the confirm split for a share of hits, 0 for a correlation and for other shares, which
    have no less; None where it is unknown. `metric_label` is what people call the metric.
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
    unquantised: tuple[str, ...] = ()
    learning_rate_ranges: dict[str, tuple[float, float]] = field(default_factory=dict)
    metric_is_share: bool | None = None
    decisions: tuple[Decision, ...] = ()
    text_form: str = ""
    lacking: str = ""
    chance: float | None = None
    metric_label: str = ""

    @property
    def metric_words(self) -> str:
        """What people call the metric; its name in runs that store no label."""
        return self.metric_label or self.metric


@dataclass(frozen=True, kw_only=True)
class Confirmation:
    """One plan trained again on fresh seeds; one of `metrics` per seed, `train_seconds` as a mean."""

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
        """Whether the 95 % interval of the mean lies above a value of the metric."""
        return self.metric_mean - _Z_95 * self.metric_std_error > metric


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Rival against baseline, in units of the metric; positive differences favour the rival.

    `label` is better, as good and smaller, inconclusive, or `default kept` where the baseline is handed over.
    `interval_95` covers new rows and new seeds. Difference, interval, rows and seeds are None where one plan
    alone was trained in full.
    """

    label: str
    mean_difference: float | None
    interval_95: tuple[float, float] | None
    margin: float
    sentence: str
    n_examples: int | None = None
    n_seeds: int | None = None


@dataclass(frozen=True, kw_only=True)
class Proxy:
    """How well the first rung ranked the plans that reached the next one (Spearman on the loss).

    `rank_correlations` has one value for each pair of neighbouring rungs, None where it is undefined.
    """

    rank_correlation: float | None
    n_plans: int
    rung_steps: tuple[int, ...]
    rank_correlations: tuple[float | None, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Seconds by stage, each with all that its runs did beside training and evaluation.

    `full_runs` is the cost of the search in R: seconds of scores and search over `full_run_seconds`.
    `total_full_runs` has confirmation and test too: `total_seconds` over the same. All three
    are None where no plan was trained: what finished was the base model itself. Results of version 0.2.0 and
    earlier have neither total, and none of the seconds by kind of work.

    `sampled_share` is the share of the search's steps and examples that went to sampled policies. The same
    seconds by kind of work: `load_seconds` until the first work, `train_seconds` and `eval_seconds` of all
    measurements; the rest of `total_seconds` is spent on scores, and on attaching and checking.
    A resumed run counts all that it measured, also what its outcome does not use.
    """

    sensitivity_seconds: float
    search_seconds: float
    confirm_seconds: float
    full_run_seconds: float | None
    full_runs: float | None
    examples_seen: int
    sampled_share: float | None = None
    load_seconds: float | None = None
    train_seconds: float | None = None
    eval_seconds: float | None = None
    total_seconds: float | None = None
    total_full_runs: float | None = None

    @property
    def known_seconds(self) -> float:
        """Seconds in all; of results that lack the total, the sum of their stages."""
        stages = self.sensitivity_seconds + self.search_seconds + self.confirm_seconds
        return stages if self.total_seconds is None else self.total_seconds


# The score that reads no example: it orders sites where memory does not hold one.
SIZE_SCORE = "parameters"
# Rank correlation of two halves of the examples from which on more examples change little; chosen by hand.
SEEN_ENOUGH = 0.95


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What the engine finds. `confirmations` and `test` are empty where there were none.

    `best` is handed over.
    `front` holds the plans at the last rung that no other beats on both loss and parameters; `sentences` are
    findings beside the verdict.
    """

    proposals: tuple[Proposal, ...]
    measurements: tuple[Measurement, ...]
    best: Plan
    smallest: Plan
    baseline: Plan
    confirmations: tuple[Confirmation, ...]
    test: tuple[Confirmation, ...]
    verdict: Verdict
    proxy: Proxy
    front: tuple[Measurement, ...] = ()
    sentences: tuple[str, ...] = ()

    @property
    def incumbent(self) -> Plan:
        """The plan compared with the baseline; another one than the best where the baseline was kept."""
        named = {confirmation.name: confirmation.plan for confirmation in self.confirmations}
        return named.get("incumbent", self.best)


@dataclass(frozen=True, kw_only=True)
class SearchResult(Outcome):
    """All that the report needs."""

    spec: RunSpec
    setting: SearchFacts
    sites: tuple[Site, ...]
    scores: tuple[SiteScores, ...]
    cost: Cost
    environment: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class TrainedPlan:
    """A plan that `train` trained in full, and what its model card says of it."""

    spec: RunSpec
    setting: SearchFacts
    best: Plan
    measurement: Measurement
    environment: dict[str, str] = field(default_factory=dict)

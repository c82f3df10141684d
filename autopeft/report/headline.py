"""The answer in plain words: what to use, what it costs, how sure that is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from autopeft.records import Confirmation, Plan, SearchResult, Status, rate
from autopeft.report.measured import is_by_chance, is_untrained, n_rivals, on_split, record_of, unfinished
from autopeft.report.named_plans import PlanRow, head_plan
from autopeft.report.naming import Naming
from autopeft.report.places import places
from autopeft.report.words import (
    count,
    difference,
    duration,
    megabytes,
    memory,
    metric,
    percent,
    plus_minus,
)

# Label of a verdict -> words and tone of the mark above the headline.
_MARKS = {
    "better": ("better than the default", "better"),
    "equivalent": ("as good as the default", "calm"),
    "worse": ("default kept", "calm"),
    "inconclusive": ("not settled", "inconclusive"),
    "default kept": ("default kept", "calm"),
    "none": ("not confirmed", "inconclusive"),
    "nothing learned": ("nothing learned", "inconclusive"),
}
_NO_ADAPTERS = "adapts nothing"
_CLEARLY_SMALLER = 1.25  # chosen by hand: a ratio of parameters below it is not worth a sentence


@dataclass(frozen=True, kw_only=True)
class Headline:
    """`title` is the recommendation; `use`, `cost` and `sure` are sentences; `aside` may be empty."""

    mark: str
    tone: str
    title: str
    aside: tuple[str, ...]
    use: tuple[str, ...]
    cost: tuple[str, ...]
    sure: tuple[str, ...]

    @property
    def sections(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """The three groups of sentences with their headings."""
        use = "What to use" if self.mark != _MARKS["none"][0] else "What leads so far"
        return ((use, self.use), ("What it costs", self.cost), ("How sure it is", self.sure))


def headline(result: SearchResult, naming: Naming, rows: Sequence[PlanRow]) -> Headline:
    """The headline of a result; `rows` is its summary."""
    mark, tone = _MARKS["nothing learned" if is_by_chance(result) else result.verdict.label]
    best = next(row for row in rows if "best" in row.marks)
    says = _Says(result=result, naming=naming, best=best)
    return Headline(
        mark=mark,
        tone=tone,
        title=says.title(),
        aside=tuple(filter(None, (says.smaller(), says.head()))),
        use=says.use(),
        cost=says.cost(),
        sure=tuple(
            filter(None, (says.settled(), says.cut(), says.failed_default(), says.tested(), says.seeds()))
        ),
    )


@dataclass(frozen=True, kw_only=True)
class _Says:
    """The sentences about one result."""

    result: SearchResult
    naming: Naming
    best: PlanRow

    def title(self) -> str:
        """What to do."""
        verdict, share = self.result.verdict, self._is_share
        best, baseline = self._full(self.result.best), self._full(self.result.baseline)
        gap = difference(abs(verdict.mean_difference or 0.0), share, signed=False)
        if verdict.label == "none":
            return f"No verdict yet: {best} did best in the short trial runs, and nothing was confirmed."
        if is_by_chance(self.result):
            return "Nothing was learned for certain: always giving the most frequent label may be as good."
        if verdict.label == "default kept":
            if not n_rivals(self.result):
                return f"Keep {baseline}: no other plan was tried."
            return f"Keep {baseline}: no other plan tried proved better."
        if verdict.label == "better" and verdict.mean_difference is None:
            return f"Use {best}: {baseline} failed in all its confirming runs."
        if verdict.label == "better":
            return f"Use {best}: it beats {baseline} by {gap}."
        fewer = self._fewer(self.result.baseline, self.result.best)
        if verdict.label == "equivalent":
            less = f" and {fewer}" if fewer else ""
            return f"Use {best}: it is as good as {baseline}{less}."
        if verdict.label == "worse":
            return f"Keep {baseline}: {best} scored {gap} {self._lower}."
        if self._is_nothing(verdict.mean_difference or 0.0):
            less = f" {fewer} and" if fewer else ""
            return f"{_capital(best)}{less} scored the same as {baseline}, which settles nothing."
        if (verdict.mean_difference or 0.0) < 0:
            return f"{_capital(best)} is {gap} behind {baseline}, which settles nothing."
        failed = self._failed(self.result.baseline)
        if failed:
            return f"Try {best}, but nothing is settled: {baseline} failed in {failed}."
        if fewer == _NO_ADAPTERS:
            return f"Try {best}, but nothing is settled: it {fewer} and is {gap} ahead of {baseline}."
        if fewer:
            return f"Try {best}, but nothing is settled: it {fewer} than {baseline} and is {gap} ahead."
        return f"Try {best}, but nothing is settled: it is {gap} ahead of {baseline}."

    def smaller(self) -> str:
        """The smallest plan beside the best, and whether it is proven."""
        result = self.result
        best, smallest = result.best, result.smallest
        fewer = self._fewer(best, smallest)
        is_proven = result.verdict.smallest_equivalent == "proven"
        if result.verdict.label == "none" or smallest == best or not fewer:
            return ""
        if not smallest.adapters and not is_proven:  # the head alone, which has a sentence of its own
            return ""
        size = f"{_capital(self._full(smallest))} {fewer}"
        if is_proven:
            margin = difference(result.verdict.margin, self._is_share, signed=False)
            return f"{size} and is proven as good, within {margin}."
        ours, theirs = self._record(best), self._record(smallest)
        if ours is None or theirs is None:
            return f"{size}, but was not compared."
        tested = {record.plan: record for record in result.test}
        both = best in tested and smallest in tested
        on_test = f", {self._compared(tested[best], tested[smallest])}" if both else ""
        n_seeds = len(theirs.seeds)
        seeds = f"{n_seeds} seed{'s' * (n_seeds > 1)}"
        return (
            f"{size} and scored {self._compared(ours, theirs)}{on_test} ({seeds}; not proven to be as good)."
        )

    def _compared(self, first: Confirmation, second: Confirmation) -> str:
        """The second score beside the first: `the same on the test split`, or `2.9 points lower on …`."""
        gain = (second.metric_mean - first.metric_mean) * self._sign
        gap = difference(abs(gain), self._is_share, signed=False)
        words = "the same" if self._is_nothing(gain) else f"{gap} {self._lower if gain < 0 else self._higher}"
        return f"{words} on the {second.split} split"

    def head(self) -> str:
        """What the adapters are worth: the head alone, or the base model as it is."""
        plan = head_plan(self.result)
        head = None if plan is None else self._record(plan)
        ours = self._record(self.result.best)
        if head is None or ours is None or head == ours:
            return ""
        if self.result.setting.head_params:
            scores = self._compared(ours, head)
            return f"Training only the output layer (the head), without adapters, scores {scores}."
        gain = (ours.metric_mean - head.metric_mean) * self._sign
        before, after = (metric(value, self._is_share) for value in (head.metric_mean, ours.metric_mean))
        if self._is_nothing(gain):
            return f"Training leaves the {self.result.setting.metric} at {after} on the {ours.split} split."
        verb = "brings" if gain > 0 else "worsens"
        sense = "" if self._sign > 0 else " (lower is better)"
        name, split = self.result.setting.metric, ours.split
        return f"Training {verb} the {name}{sense} from {before} to {after} on the {split} split."

    def use(self) -> tuple[str, ...]:
        """The plan, its rate, its modules and its size."""
        plan = self.result.best
        where = places(plan, self.result.sites)
        at_rate = "" if is_untrained(self.result, plan) else f", learning rate {rate(plan.learning_rate)}"
        return (
            f"{_capital(self._full(plan))}{at_rate}.",
            *((f"It adapts {where}{_with_ranks(plan)}.",) if where else ()),
            *((f"It reaches {self._score()}.",) if self._score() else ()),
            self._trained(plan),
        )

    def _trained(self, plan: Plan) -> str:
        """What the plan trains; without adapters the head alone, or nothing."""
        if is_untrained(self.result, plan):
            return "It adapts nothing and trains nothing."
        if not plan.adapters:
            n_params = count(self.result.setting.head_params)
            return f"It adapts nothing and trains the output layer (the head) alone, {n_params} parameters."
        share = 100 * plan.trainable_params / self.result.setting.budget.base_params
        n_params, head = count(plan.trainable_params), self.result.setting.head_params
        beside = f", and the head's {count(head)}" if head else ""
        return f"It trains {n_params} adapter parameters, {percent(share)} of the base model{beside}."

    def _score(self) -> str:
        """The best plan's metric on the test split, else on the confirm split; empty where neither is."""
        record = self.best.test or self.best.confirm
        if record is None:
            return ""
        value = f"{self.result.setting.metric} {metric(record.metric_mean, self._is_share)}"
        spread = plus_minus(record.metric_std_error, self._is_share)
        return f"{value} {spread} on {on_split(self.result, record.split)}"

    def cost(self) -> tuple[str, ...]:
        """Time of the whole run, and what one training of the plan takes."""
        cost, best = self.result.cost, self.best
        loading = f", after {duration(cost.load_seconds)} to load" if cost.load_seconds >= 1 else ""
        workers = self.result.environment.get("workers", "1")
        shared = "in all" if workers == "1" else f"of work, shared by {workers} workers"
        lines = [f"This search took {duration(cost.known_seconds)} {shared}{loading}."]
        if cost.full_run_seconds is None:
            lines.append("In it no plan was trained: every one failed, or none had time.")
        if best.seconds:
            full = self.result.setting.full_run_steps
            part = f" of {count(full)}" if best.steps and best.steps < full else ""
            steps = f"{count(best.steps)}{part} steps" if best.steps else "one run"
            device = self.result.environment.get("device")
            where = f" on {device}" if device else ""
            beside = f"{memory(best.peak_bytes)} of memory beside the weights"
            lines.append(f"Training the plan ({steps}{where}): {duration(best.seconds)}, {beside}.")
        lines.append(f"Adapter file: {megabytes(best.megabytes)} MB.")
        return tuple(lines)

    def failed_default(self) -> str:
        """That runs of the default failed, which says more of its learning rate than of the default."""
        failed, record = self._failed(self.result.baseline), self._record(self.result.baseline)
        if not failed or record is None or self.result.best == self.result.baseline:
            return ""
        scores = ", ".join(metric(value, self._is_share) for value in record.metrics)
        return (
            f"The default failed in {failed} ({self.result.setting.metric} {scores}), so its mean says "
            "little; a lower learning rate may mend it."
        )

    def _failed(self, plan: Plan) -> str:
        """How many of a plan's runs reached less than half of its best one: `1 of 2 runs`, or nothing.

        A metric that may be negative has no half where its best value is not above 0.
        """
        record = self._record(plan)
        if record is None or len(record.metrics) < 2 or self._sign < 0 or max(record.metrics) <= 0:
            return ""
        n_failed = sum(value < max(record.metrics) / 2 for value in record.metrics)
        return f"{n_failed} of {len(record.metrics)} runs" if n_failed else ""

    def _n_full_trials(self) -> int:
        """How many plans the search trained in full beside the confirmation."""
        full = self.result.setting.full_run_steps
        searched = (m.fidelity for m in self.result.measurements if m.fidelity.split == "search")
        is_longest_rung = full in self.result.proxy.rung_steps
        return 0 if is_longest_rung else sum(fidelity.train_steps == full for fidelity in searched)

    def settled(self) -> str:
        """Whether the difference to the default is settled, in one sentence."""
        verdict = self.result.verdict
        if verdict.label == "none":
            confirming = "confirm='half'" if self.result.spec.is_in_memory else "--confirm half"
            return (
                f"Not at all: short trial runs prove nothing. The same search with {confirming} gives a "
                "verdict."
            )
        if verdict.mean_difference is None:
            failed = "the default" if verdict.label == "better" else "the plan that the search put first"
            return f"Not compared: no confirming run of {failed} finished."
        if verdict.interval_95 is None:
            if not n_rivals(self.result):
                return "Chosen among learning rates of the default alone, by short trial runs."
            n_full = self._n_full_trials()
            how = f"short trial runs and {n_full} full ones of the default" if n_full else "short trial runs"
            return f"Chosen by {how}: no other plan did clearly better there."
        low, high = verdict.interval_95
        seeds = f", {verdict.n_seeds} seeds" if verdict.n_seeds else ""
        half = ", runs of half length" if verdict.fidelity == "half" else ""
        is_open = low <= 0 <= high and not {verdict.label, verdict.stopped_by} & {
            "better",
            "equivalent",
            "worse",
        }
        name = self._full(self.result.incumbent)
        return (
            f"{'Not settled' if is_open else 'Settled'}: {name} {'may be' if is_open else 'is'} "
            f"{self._span(low, high)} than the default (95 % interval{seeds}{half})."
        )

    def tested(self) -> str:
        """The same difference on the test split, which decides nothing, where no verdict was reached."""
        best, default = (record_of(self.result.test, p) for p in (self.result.best, self.result.baseline))
        if self.result.verdict.label != "inconclusive" or best is None or default is None or best == default:
            return ""
        gain = (best.metric_mean - default.metric_mean) * self._sign
        gap = difference(abs(gain), self._is_share, signed=False)
        name = _capital(self._full(self.result.best))
        if self._is_nothing(gain):
            return f"{name} scored the same as the default on the test split."
        direction = self._lower if gain < 0 else self._higher
        return f"{name} scored {gap} {direction} than the default on the test split."

    def cut(self) -> str:
        """That time or cost ended the search before its last rung."""
        steps = unfinished(self.result)
        if not steps:
            return ""
        done, planned = (count(number) for number in steps)
        return (
            f"Time or cost ended the search after {done} steps a plan; runs of {planned} would rank better."
        )

    def _span(self, low: float, high: float) -> str:
        """An interval of differences in words: `2.8 points worse to 1.4 points better`."""
        if min(low, high) >= 0 or max(low, high) <= 0:
            near, far = sorted((abs(low), abs(high)))
            less = difference(near, self._is_share, signed=False).removesuffix(" points")
            more = difference(far, self._is_share, signed=False)
            return f"{less} to {more} {'better' if high > 0 else 'worse'}"
        worse, better = (difference(abs(v), self._is_share, signed=False) for v in (low, high))
        return f"{worse} worse to {better} better"

    def seeds(self) -> str:
        """The worst seed, and the runs that failed."""
        record = self._record(self.result.best)
        if record is None:
            return ""
        worst = (min if self._sign > 0 else max)(record.metrics, default=record.metric_mean)
        runs = [
            run
            for run in self.result.measurements
            if run.plan == record.plan and run.fidelity.split == record.split
        ]
        failed = sum(run.status is not Status.COMPLETE for run in runs)
        n_seeds = len(record.seeds)
        of = f"Worst of its {n_seeds} runs" if n_seeds > 1 else "One run"
        fate = f"; {failed} diverged or broke off" if failed else ""
        where = f"on the {record.split} split"
        return f"{of} {where}: {self.result.setting.metric} {metric(worst, self._is_share)}{fate}."

    def _fewer(self, larger: Plan, smaller: Plan) -> str:
        """How much less a plan trains than another; empty where that is not worth a sentence."""
        if not smaller.trainable_params:
            return _NO_ADAPTERS if larger.trainable_params else ""
        ratio = larger.trainable_params / smaller.trainable_params
        return f"trains {_times(ratio)} fewer parameters" if ratio >= _CLEARLY_SMALLER else ""

    def _is_nothing(self, gap: float) -> bool:
        """Whether a difference is too small to speak of: for a share, 0 with one decimal of a point."""
        return not (round(100 * gap, 1) if self._is_share else gap)

    def _full(self, plan: Plan) -> str:
        return self.naming.full(plan)

    def _record(self, plan: Plan) -> Confirmation | None:
        return record_of(self.result.confirmations, plan)

    @property
    def _is_share(self) -> bool:
        return self.naming.words.metric_is_share

    @property
    def _sign(self) -> int:
        return 1 if self.result.setting.greater_is_better else -1

    @property
    def _lower(self) -> str:
        """How a worse score is called: lower, or for losses higher."""
        return "lower" if self.result.setting.greater_is_better else "higher"

    @property
    def _higher(self) -> str:
        return "higher" if self.result.setting.greater_is_better else "lower"


def _with_ranks(plan: Plan) -> str:
    """The ranks of a plan after its modules: `, with rank 8`; empty for methods without one."""
    ranks = sorted({adapter.rank for adapter in plan.adapters if adapter.rank})
    if not ranks:
        return ""
    return f", with rank {ranks[0]}" if len(ranks) == 1 else f", with ranks {ranks[0]} to {ranks[-1]}"


def _capital(name: str) -> str:
    """The text with its first letter as a capital."""
    return f"{name[:1].upper()}{name[1:]}"


def _times(ratio: float) -> str:
    """A ratio in words.

    Example:
        >>> _times(4.02), _times(16.4), _times(1.5)
        ('4 times', '16 times', '1.5 times')
    """
    return f"{ratio:.0f} times" if ratio >= 1.95 else f"{ratio:.1f} times"

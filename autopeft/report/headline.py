"""The answer in plain words: what to use, what it costs, how sure that is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from autopeft.records import Plan, SearchResult, rate
from autopeft.report.certainty import how_sure
from autopeft.report.measured import (
    has_failed,
    is_alone,
    is_by_chance,
    is_untrained,
    leads_among,
    longest_trials,
    n_rivals,
    on_split,
    trial_runs,
)
from autopeft.report.naming import Naming, PlanRow, given_plans, head_plan
from autopeft.report.terms import NO_ADAPTERS, Terms, capital
from autopeft.report.words import (
    count,
    difference,
    duration,
    megabytes,
    memory,
    metric,
    percent,
    places,
    plus_minus,
)

# Label of a verdict, or what overrules it -> words and tone of the mark above the headline.
_MARKS = {
    "better": ("better than the default", "better"),
    "equivalent": ("as good as the default", "calm"),
    "worse": ("default kept", "calm"),
    "inconclusive": ("not settled", "inconclusive"),
    "default kept": ("default kept", "calm"),
    "none": ("not confirmed", "inconclusive"),
    "nothing learned": ("nothing learned", "inconclusive"),
    "nothing usable": ("nothing usable", "inconclusive"),
    "nothing recommended": ("nothing recommended", "inconclusive"),
}
# Mark -> heading of the plan below it, where that is not "What to use".
USES = {
    _MARKS["none"][0]: "What leads so far",
    _MARKS["nothing usable"][0]: "What was tried",
    _MARKS["nothing recommended"][0]: "What was chosen",
}
_CLEAR = 2.0  # standard errors by which the head alone has to be ahead; chosen by hand


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
        use = USES.get(self.mark, "What to use")
        return ((use, self.use), ("What it costs", self.cost), ("How sure it is", self.sure))


def headline(result: SearchResult, naming: Naming, rows: Sequence[PlanRow]) -> Headline:
    """The headline of a result; `rows` is its summary."""
    best = next(row for row in rows if "best" in row.marks)
    terms = Terms(result=result, naming=naming)
    says = _Says(terms=terms, best=best)
    mark, tone, title = answer(terms)
    return Headline(
        mark=mark,
        tone=tone,
        title=title,
        aside=tuple(filter(None, (says.smaller(), says.yours(), says.head()))),
        use=says.use(),
        cost=says.cost(),
        sure=how_sure(terms),
    )


@dataclass(frozen=True, kw_only=True)
class _Says:
    """The sentences about one result."""

    terms: Terms
    best: PlanRow

    @property
    def result(self) -> SearchResult:
        return self.terms.result

    def smaller(self) -> str:
        """The smallest plan beside the best, and whether it is proven."""
        result = self.result
        best, smallest = result.best, result.smallest
        fewer = self.terms.fewer(best, smallest)
        is_proven = result.verdict.smallest_equivalent == "proven"
        if result.verdict.label == "none" or smallest == best or not fewer:
            return ""
        if not smallest.adapters:  # of the head alone the title tells, or a sentence of its own
            return ""
        size = f"{capital(self.terms.full(smallest))} {fewer}"
        if is_proven:
            margin = difference(result.verdict.margin, self.terms.is_share, signed=False)
            return f"{size} and is proven as good, within {margin}."
        ours, theirs = self.terms.record(best), self.terms.record(smallest)
        if ours is None or theirs is None:
            return f"{size}, but was not compared."
        tested = {record.plan: record for record in result.test}
        both = best in tested and smallest in tested
        on_test = f", {self.terms.compared(tested[best], tested[smallest])}" if both else ""
        n_seeds = len(theirs.seeds)
        seeds = f"{n_seeds} seed{'s' * (n_seeds > 1)}"
        scored = self.terms.compared(ours, theirs)
        return f"{size} and scored {scored}{on_test} ({seeds}; not proven to be as good)."

    def head(self) -> str:
        """What the adapters are worth: the head alone, or the base model as it is."""
        plan = head_plan(self.result)
        head = None if plan is None else self.terms.record(plan)
        ours = self.terms.record(self.result.best)
        if head is not None and ours is None and self.result.setting.head_params:
            score = f"{self.result.setting.metric_words} {metric(head.metric_mean, self.terms.is_share)}"
            return f"Training only the output layer (the head) reaches {score} on the {head.split} split."
        if head is None or ours is None or head == ours:
            return ""
        if self.result.setting.head_params:
            scores = self.terms.compared(ours, head)
            return f"Training only the output layer (the head), without adapters, scores {scores}."
        name, split = self.result.setting.metric_words, ours.split
        gain = (ours.metric_mean - head.metric_mean) * self.terms.sign
        before, after = (metric(value, self.terms.is_share) for value in (head.metric_mean, ours.metric_mean))
        if self.terms.is_nothing(gain):
            return f"Training leaves the {name} at {after} on the {split} split."
        verb = "brings" if gain > 0 else "worsens"
        sense = "" if self.terms.sign > 0 else " (lower is better)"
        return f"Training {verb} the {name}{sense} from {before} to {after} on the {split} split."

    def yours(self) -> str:
        """How the user's own plans scored, and that the budget does not allow one."""
        ours, most = self.terms.record(self.result.best), self.result.setting.budget.max_trainable_params
        said = []
        for arm, record in given_plans(self.result):
            if ours is None or record.plan in (self.result.best, self.result.baseline):
                continue
            n_params = record.plan.trainable_params
            over = f", but trains {count(n_params)} parameters of {count(most)} allowed"
            over = over if n_params > most else ""
            said.append(f"{capital(arm.label)} scored {self.terms.compared(ours, record)}{over}.")
        return " ".join(said)

    def use(self) -> tuple[str, ...]:
        """The plan, its rate, its modules and its size."""
        plan = self.result.best
        where = places(plan, self.result.sites)
        at_rate = "" if is_untrained(self.result, plan) else f", learning rate {rate(plan.learning_rate)}"
        return (
            f"{capital(self.terms.full(plan))}{at_rate}.",
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
        value = f"{self.result.setting.metric_words} {metric(record.metric_mean, self.terms.is_share)}"
        spread = plus_minus(record.metric_std_error, self.terms.is_share)
        full, steps = self.result.setting.full_run_steps, self.best.steps
        half = f" after {count(steps)} of {count(full)} steps" if steps and steps < full else ""
        return f"{value} {spread} on {on_split(self.result, record.split)}{half}"

    def cost(self) -> tuple[str, ...]:
        """Time of the whole run, and what one training of the plan takes."""
        cost, best = self.result.cost, self.best
        load_seconds = cost.load_seconds or 0.0  # None in old results
        loading = f", after {duration(load_seconds)} to load" if load_seconds >= 1 else ""
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


def _with_ranks(plan: Plan) -> str:
    """The ranks of a plan after its modules: `, with rank 8`; empty for methods without one."""
    ranks = sorted({adapter.rank for adapter in plan.adapters if adapter.rank})
    if not ranks:
        return ""
    return f", with rank {ranks[0]}" if len(ranks) == 1 else f", with ranks {ranks[0]} to {ranks[-1]}"


def answer(terms: Terms) -> tuple[str, str, str]:
    """Mark, tone and title."""
    result = terms.result
    if result.verdict.label == "none":
        return *_MARKS["none"], _unconfirmed(terms)
    if has_failed(result, result.best):
        name = terms.full(result.best)
        return *_MARKS["nothing usable"], f"No confirming run of {name} finished: nothing usable was trained."
    if is_by_chance(result):
        return *_MARKS["nothing learned"], _by_chance(result)
    if ahead := _head_ahead(terms):
        return *_MARKS["nothing recommended"], ahead
    title = _of_verdict(terms)
    if terms.proven_head:  # then adapting is proven to bring nothing that matters
        title = f"{title.removesuffix('.')}; {terms.proven_head}."
    return *_MARKS[result.verdict.label], title


def _by_chance(result: SearchResult) -> str:
    """That nothing was learned: shares have a most frequent label, correlations have guesses."""
    guess = "guessing" if result.setting.chance == 0 else "always giving the most frequent label"
    return f"Nothing was learned for certain: {guess} may be as good."


def _unconfirmed(terms: Terms) -> str:
    """Which plan leads where nothing was confirmed, and by what."""
    result, best = terms.result, terms.full(terms.result.best)
    among, trials = leads_among(result), trial_runs(result)
    how = "was put first by"
    if among is not None:
        how = f"did best of the plans {among} in" if among else "did best in"
    elif _has_best_metric(terms):
        how = f"had the best {result.setting.metric_words} in"
    the = "" if "full" in trials else "the "
    return f"No verdict yet: {best} {how} {the}{trials}, and nothing was confirmed."


def _has_best_metric(terms: Terms) -> bool:
    """Whether the best plan has the best metric of the longest rung."""
    _, runs = longest_trials(terms.result)
    metrics = {run.plan: terms.sign * run.metric for run in runs if run.metric is not None}
    return bool(metrics) and metrics.get(terms.result.best) == max(metrics.values())


def _head_ahead(terms: Terms) -> str:
    """That the head alone, or the untrained model, is clearly ahead of the plan handed over; else nothing."""
    result, plan = terms.result, head_plan(terms.result)
    head, ours = (None if p is None else terms.record(p) for p in (plan, result.best))
    if plan is None or head is None or ours is None or not result.best.adapters:
        return ""
    gain = (head.metric_mean - ours.metric_mean) * terms.sign
    if gain <= _CLEAR * math.hypot(head.metric_std_error, ours.metric_std_error) or terms.is_nothing(gain):
        return ""
    gap = difference(gain, terms.is_share, signed=False)
    name, best = terms.full(plan), terms.full(result.best)
    return f"Nothing is recommended: {name} scored {gap} {terms.higher} than {best}."


def _is_beaten_over_budget(terms: Terms) -> bool:
    """Whether a confirmed plan beyond the budget has a better mean than the plan handed over."""
    result, ours = terms.result, terms.record(terms.result.best)
    most = result.setting.budget.max_trainable_params
    return ours is not None and any(
        record.plan.trainable_params > most and (record.metric_mean - ours.metric_mean) * terms.sign > 0
        for record in result.confirmations
    )


def _of_verdict(terms: Terms) -> str:
    """What to do, by the verdict."""
    result, verdict, share = terms.result, terms.result.verdict, terms.is_share
    best, baseline = terms.full(result.best), terms.full(result.baseline)
    gap = difference(abs(verdict.mean_difference or 0.0), share, signed=False)
    if verdict.label == "default kept":
        if is_alone(result):
            return f"Keep {baseline}: no other plan was tried."
        if not n_rivals(result):
            return f"Keep {baseline}: only {terms.defaults} were tried."
        within = "within the budget" if _is_beaten_over_budget(terms) else "tried"
        return f"Keep {baseline}: no other plan {within} proved better."
    if has_failed(result, result.baseline):
        start = "Use" if verdict.label == "better" else "Try"
        return f"{start} {best}: {baseline} failed in all its confirming runs."
    if verdict.label == "better":
        return f"Use {best}: it beats {baseline} by {gap}."
    fewer = terms.fewer(result.baseline, result.best)
    if verdict.label == "equivalent":
        less = f" and {fewer}" if fewer else ""
        return f"Use {best}: it is as good as {baseline}{less}."
    if verdict.label == "worse":
        return f"Keep {baseline}: {best} scored {gap} {terms.lower}."
    if terms.is_nothing(verdict.mean_difference or 0.0):
        less = f" {fewer} and" if fewer else ""
        return f"{capital(best)}{less} scored the same as {baseline}, which settles nothing."
    if (verdict.mean_difference or 0.0) < 0:
        return f"{capital(best)} is {gap} behind {baseline}, which settles nothing."
    failed, ours = terms.failed(result.baseline), terms.failed(result.best)
    if failed:
        too = f", and {best} in {ours}" if ours else ""
        return f"Try {best}, but nothing is settled: {baseline} failed in {failed}{too}."
    if fewer == NO_ADAPTERS:
        return f"Try {best}, but nothing is settled: it {fewer} and is {gap} ahead of {baseline}."
    if fewer:
        return f"Try {best}, but nothing is settled: it {fewer} than {baseline} and is {gap} ahead."
    return f"Try {best}, but nothing is settled: it is {gap} ahead of {baseline}."

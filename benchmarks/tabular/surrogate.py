"""Any plan's measurement, from the plans that a cell has measured.

A plan with the adapters of an arm is that arm; any other is the nearest arm of the same methods, by how far
their target modules, ranks and options overlap and by their parameters. Losses lie on straight lines between
measured learning rates and between measured lengths, both in the logarithm; beyond the measured rates they
grow by the last slope, beyond the measured lengths they stay. Nothing is drawn at random but by fixed seeds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from description import Description
from table import COMPLETE, DIVERGED, FULL_SEEDS, SEARCH_SEED, Results, Row, TableError

from autopeft.train.lengths import Lengths
from autopeft.types import Adapter, Fidelity, Measurement, Plan, Status

# How unlike two adapters of one method at one target module are (a target module that only one plan has
# counts 1), and what a factor e between the parameters of two plans adds to the mean over target modules.
# Chosen by hand.
_PER_DOUBLING, _OTHER_OPTIONS, _PER_LOG_PARAMS = 0.1, 0.1, 0.1
# First number of the seed of each kind of draw, so that they are independent.
_BY_RATE, _BY_LENGTH, _BY_SEED, _SUBSET = range(4)
Adapters = tuple[Adapter, ...]


@dataclass(frozen=True, eq=False)
class Point:
    """What a run gives: its loss, None where it diverged, and scores (N,), empty where there are none."""

    loss: float | None
    scores: np.ndarray


BAD = Point(None, np.empty(0))
Knots = Sequence[tuple[float, Point]]  # ascending in the logarithm of a rate or a length


def blended(low: Point, high: Point, weight: float, *, draws: np.ndarray) -> Point:
    """The point at a share of the way from one to another.

    The loss is the weighted mean. Each example's score comes from `high` where its draw is below the weight,
    so that the metric too moves in proportion. Beside a point that diverged, the half of the way that is
    nearer to it diverges, and the other half is as the other point.
    """
    nearer = low if weight < 0.5 or (weight == 0.5 and high.loss is None) else high
    if low.loss is None or high.loss is None:
        return nearer
    loss = (1 - weight) * low.loss + weight * high.loss
    if low.scores.shape != high.scores.shape:
        return replace(nearer, loss=loss)
    return Point(loss, np.where(draws[: len(low.scores)] < weight, high.scores, low.scores))


def along(knots: Knots, at: float, *, kind: int) -> Point:
    """The point at a place between knots; that of the nearest end beyond them."""
    places = [place for place, _ in knots]
    index = int(np.searchsorted(places, at))
    if index == 0 or index == len(knots):
        return knots[min(index, len(knots) - 1)][1]
    (low_at, low), (high_at, high) = knots[index - 1], knots[index]
    draws = np.random.default_rng(kind).random(max(len(low.scores), len(high.scores)))
    return blended(low, high, (at - low_at) / (high_at - low_at), draws=draws)


def at_rate(knots: Knots, log_rate: float) -> Point:
    """As `along`, with a loss that grows beyond the ends by the size of the last slope.

    So no rate beyond those measured is better than the last one. Where the last slope is unknown, the loss
    stays: one rate alone, or a neighbour that diverged.
    """
    point = along(knots, log_rate, kind=_BY_RATE)
    beyond = max(knots[0][0] - log_rate, log_rate - knots[-1][0], 0.0)
    if not beyond or point.loss is None:
        return point
    last = knots[:2] if log_rate < knots[0][0] else knots[-2:]
    (a_at, a), (b_at, b) = last[0], last[-1]
    if a.loss is None or b.loss is None or a_at == b_at:
        return point
    return replace(point, loss=point.loss + abs((b.loss - a.loss) / (b_at - a_at)) * beyond)


@dataclass(frozen=True, kw_only=True, eq=False)
class Curve:
    """A measured plan: by length on the search split, and by seed in full on each other split."""

    learning_rate: float
    lengths: Knots
    full: Mapping[str, tuple[Point, ...]]

    def point(self, split: str, steps: int, *, seed: int, first_seed: int) -> Point:
        """A run of the plan at its own rate; `first_seed` is that of the first full run."""
        if split == "search":
            return along(self.lengths, math.log(steps), kind=_BY_LENGTH)
        return fresh_seed(self.full[split], seed=seed, first_seed=first_seed)


def fresh_seed(measured: Sequence[Point], *, seed: int, first_seed: int) -> Point:
    """A run with a new seed, from the runs of the measured seeds.

    The first two seeds of a search are the measured ones, the first of them first if `first_seed` is even.
    A further seed takes each example's score from one of them by chance, from the same for every plan. If one
    of them diverged, all scores come from one.
    """
    index = seed - first_seed
    if len(measured) == 1:
        return measured[0]
    if index in (0, 1):
        return measured[(index + first_seed) % 2]
    rng = np.random.default_rng([_BY_SEED, seed])
    first, second = measured
    if first.loss is None or second.loss is None:
        return measured[int(rng.integers(2))]
    return blended(first, second, 0.5, draws=rng.random(max(len(p.scores) for p in measured)))


@dataclass(frozen=True, kw_only=True, eq=False)
class Arm:
    """An arm with its curves by ascending rate, and what its runs took on the average."""

    name: str
    adapters: Adapters
    trainable_params: int
    curves: tuple[Curve, ...]
    step_seconds: float
    example_seconds: float
    peak_bytes: int

    def point(self, rate: float, split: str, steps: int, *, seed: int, first_seed: int) -> Point:
        """A run of the arm at any learning rate."""
        points = [curve.point(split, steps, seed=seed, first_seed=first_seed) for curve in self.curves]
        rates = [math.log(curve.learning_rate) for curve in self.curves]
        return at_rate(list(zip(rates, points, strict=True)), math.log(rate))


class Surrogate:
    """The measured plans of a cell, as a function of any plan."""

    def __init__(self, results: Results, description: Description) -> None:
        """Gather the arms; a plan that lacks a rung or a full run is left out.

        Raises:
            TableError: No plan with adapters is complete, or rows and description are of different plans.
        """
        self.results, self.description = results, description
        self.plans: dict[tuple[str, float], Plan] = {}
        curves: dict[str, list[Curve]] = {}
        for (name, position), plan in sorted(description.plans().items(), key=lambda entry: entry[0]):
            curve = _curve(results, name, position, plan, description)
            if curve is not None:
                self.plans[name, position] = plan
                curves.setdefault(name, []).append(curve)
        first = {name: plan for (name, _), plan in reversed(self.plans.items())}
        self.arms = {name: _arm(results, name, first[name], curves[name]) for name in curves}
        if not any(arm.adapters for arm in self.arms.values()):
            raise TableError(
                f"Cell {results.name} has no complete plan with adapters yet; measure more of it."
            )
        self._known = {arm.adapters: arm for arm in reversed(self.arms.values())}

    @property
    def sign(self) -> float:
        """Factor that turns the metric into one where larger is better."""
        return 1.0 if self.description.metric.greater_is_better else -1.0

    @property
    def n_planned(self) -> int:
        """Plans of the cell, measured or not."""
        return len(self.description.plans())

    def arm_of(self, plan: Plan) -> Arm:
        """The arm that stands for a plan.

        Raises:
            TableError: No arm has its first method.
        """
        if plan.adapters not in self._known:
            self._known[plan.adapters] = self._nearest(plan) if plan.adapters else self._untrained()
        return self._known[plan.adapters]

    def _nearest(self, plan: Plan) -> Arm:
        methods = {adapter.method for adapter in plan.adapters}
        arms = [arm for arm in self.arms.values() if arm.adapters]
        same = [arm for arm in arms if {a.method for a in arm.adapters} == methods]
        lead = plan.lead_method
        same = same or [arm for arm in arms if _plan_of(arm).lead_method == lead]
        if not same:
            raise TableError(f"Cell {self.results.name} has no arm of {lead}; leave it out of the search.")
        return min(same, key=lambda arm: (distance(plan, _plan_of(arm)), arm.name))

    def _untrained(self) -> Arm:
        """The plan with the highest loss in full, for a base model without a head, which no row is about."""

        def loss(curve: Curve) -> float:
            losses = [point.loss for point in curve.full["confirm"] if point.loss is not None]
            return max(losses, default=-math.inf)

        arm, worst = max(
            ((arm, c) for arm in self.arms.values() for c in arm.curves), key=lambda e: loss(e[1])
        )
        return replace(arm, name="untrained", adapters=(), curves=(worst,), step_seconds=0.0)

    def metric(self, plan: Plan, split: str) -> float:
        """The metric in full on confirm or test, as the mean over the measured seeds.

        A run that diverged counts as the worst of the cell.
        """
        arm, full = self.arm_of(plan), self.description.cell.full
        seeds = range(len(FULL_SEEDS))
        points = [arm.point(plan.learning_rate, split, full, seed=seed, first_seed=0) for seed in seeds]
        return math.fsum(self._metric(point, split) for point in points) / len(points)

    def metric_of_weights(self, plan: Plan, split: str, *, seed: int) -> float:
        """The metric in full of the weights that one seed gives, the first seed of a search."""
        full = self.description.cell.full
        point = self.arm_of(plan).point(plan.learning_rate, split, full, seed=seed, first_seed=seed)
        return self._metric(point, split)

    def _metric(self, point: Point, split: str) -> float:
        return self.worst(split) if point.loss is None else float(point.scores.mean())

    def worst(self, split: str) -> float:
        """The worst metric of any full run on a split."""
        full = self.description.cell.full
        rows = (row for row in self.results.rows.values() if (row.split, row.steps) == (split, full))
        metrics = [row.metric for row in rows if row.metric is not None]
        return min(metrics, key=lambda metric: self.sign * metric)


def distance(plan: Plan, other: Plan) -> float:
    """How unlike two plans are: 0 for the same adapters, 1 for as many parameters at other target modules."""
    first, second = ({adapter.target: adapter for adapter in p.adapters} for p in (plan, other))
    targets = sorted({*first, *second})
    unlike = math.fsum(_unlike(first.get(target), second.get(target)) for target in targets) / len(targets)
    return unlike + _PER_LOG_PARAMS * abs(math.log(plan.trainable_params / other.trainable_params))


def _unlike(a: Adapter | None, b: Adapter | None) -> float:
    if a is None or b is None or a.method != b.method:
        return 1.0
    n_doublings = abs(math.log2(a.rank / b.rank)) if a.rank and b.rank else 0.0
    is_other = a.options != b.options or (a.rank == b.rank and a.scale != b.scale)
    return min(1.0, _PER_DOUBLING * n_doublings + _OTHER_OPTIONS * is_other)


def _plan_of(arm: Arm) -> Plan:
    rate = arm.curves[0].learning_rate
    return Plan(adapters=arm.adapters, learning_rate=rate, trainable_params=arm.trainable_params)


def _curve(
    results: Results, name: str, position: float, plan: Plan, description: Description
) -> Curve | None:
    """A plan's rows; None where some are missing, or a machine broke a run off."""
    cell = description.cell
    splits = [split for split in ("confirm", "test") if split in description.examples]
    short = _through(results.rows.get((name, position, "search", steps, SEARCH_SEED)) for steps in cell.rungs)
    confirm = results.full(name, position, split="confirm", steps=cell.full)
    runs = [
        _through(results.rows.get((name, position, split, cell.full, row.seed)) for split in splits)
        for row in confirm
    ]
    complete = [run for run in runs if run is not None]
    if short is None or not runs or len(complete) < len(runs):
        return None
    if confirm[0].plan != plan.digest:
        raise TableError(
            f"Cell {results.name} has the plan {confirm[0].plan} for {name} at {position}, its description "
            f"{plan.digest}; measure it anew, or restore the cell.json that it was measured with."
        )
    lengths = [*zip(map(math.log, cell.rungs), short, strict=True)]
    lengths.append((math.log(cell.full), _mean_run([run[0] for run in complete], scores=short[-1].scores)))
    full = dict(zip(splits, zip(*complete, strict=True), strict=True))
    return Curve(learning_rate=plan.learning_rate, lengths=lengths, full=full)


def _mean_run(points: Sequence[Point], *, scores: np.ndarray) -> Point:
    """The mean loss of full runs; diverged where the first one did."""
    losses = [point.loss for point in points if point.loss is not None]
    return BAD if points[0].loss is None else Point(math.fsum(losses) / len(losses), scores)


def _through(rows: Iterable[Row | None]) -> list[Point] | None:
    """Points of rows that follow each other; after one that diverged there are no rows."""
    points: list[Point] = []
    for row in rows:
        if points and points[-1].loss is None:
            points.append(BAD)
        elif row is None or row.status not in (COMPLETE, DIVERGED):
            return None
        else:
            points.append(Point(row.loss, row.scores.astype(np.float64)))
    return points


def _arm(results: Results, name: str, plan: Plan, curves: Sequence[Curve]) -> Arm:
    costs = [row.cost for row in results.rows.values() if row.arm == name and row.status == COMPLETE]
    trained = [cost for cost in costs if cost.trained_steps]
    n_steps = sum(cost.trained_steps for cost in trained)
    n_examples = sum(cost.eval_examples for cost in costs)
    return Arm(
        name=name,
        adapters=plan.adapters,
        trainable_params=plan.trainable_params,
        curves=tuple(sorted(curves, key=lambda curve: curve.learning_rate)),
        step_seconds=math.fsum(cost.train_seconds for cost in trained) / n_steps if n_steps else 0.0,
        example_seconds=math.fsum(cost.eval_seconds for cost in costs) / n_examples if n_examples else 0.0,
        peak_bytes=max((cost.peak_bytes for cost in costs), default=0),
    )


class TableBench:
    """Measures plans as a bench does, and adds up the seconds that the runs would have taken."""

    def __init__(self, surrogate: Surrogate, *, seed: int) -> None:
        """Nothing is measured yet; `seed` is that of the search."""
        self.surrogate, self.seed, self.seconds = surrogate, seed, 0.0
        self.measured: list[Measurement] = []
        self._trained: dict[Plan, int] = {}  # steps on the search split, which a later rung continues
        cell, examples = surrogate.description.cell, surrogate.description.examples
        self.lengths = Lengths(
            full_steps=cell.full,
            batch_size=cell.batch_size,
            n_search=examples["search"],
            n_confirm=examples["confirm"],
            n_test=examples.get("test", 0),
        )

    def measure(self, plan: Plan, fidelity: Fidelity) -> Measurement:
        """The measurement of a plan.

        Raises:
            TableError: The table has no full runs of that length, no such split, or no arm of the method.
        """
        self._check(fidelity)
        arm, split = self.surrogate.arm_of(plan), fidelity.split
        seeds = {"seed": fidelity.seed, "first_seed": self.seed}
        point = arm.point(plan.learning_rate, split, fidelity.train_steps, **seeds)
        scores = _subset(point.scores, fidelity.eval_examples)
        is_complete = point.loss is not None
        n_new = self._new_steps(plan, fidelity)
        measurement = Measurement(
            plan=plan,
            fidelity=fidelity,
            status=Status.COMPLETE if is_complete else Status.DIVERGED,
            metric=float(scores.mean()) if is_complete and scores.size else None,
            loss=point.loss,
            train_seconds=n_new * arm.step_seconds,
            trained_steps=n_new,
            eval_seconds=fidelity.eval_examples * arm.example_seconds if is_complete else 0.0,
            peak_bytes=arm.peak_bytes,
            example_scores=tuple(scores.tolist()) if is_complete else (),
            error=None if is_complete else "diverged in the table",
        )
        self.seconds += measurement.train_seconds + measurement.eval_seconds
        self.measured.append(measurement)
        return measurement

    def _check(self, fidelity: Fidelity) -> None:
        full, name = self.lengths.full_steps, self.surrogate.results.name
        if fidelity.split not in ("search", "confirm", "test"):
            raise TableError(f"The split is {fidelity.split}; cell {name} has search, confirm and test.")
        if fidelity.split != "search" and fidelity.train_steps != full:
            raise TableError(
                f"A run of {fidelity.train_steps} steps on {fidelity.split} is not in the table of {name}; "
                f"its full runs have {full} steps."
            )

    def _new_steps(self, plan: Plan, fidelity: Fidelity) -> int:
        if fidelity.split == "test":
            return 0
        if fidelity.split == "confirm":
            short = (plan, self.lengths.short(seed=fidelity.seed))
            is_begun = short in [(m.plan, m.fidelity) for m in self.measured]
            return fidelity.train_steps - is_begun * self.lengths.kept_steps
        before = self._trained.get(plan, 0)
        self._trained[plan] = fidelity.train_steps
        return fidelity.train_steps - (before if before < fidelity.train_steps else 0)

    def cost(self, *, full_steps: int | None = None) -> float:
        """Cost of all measurements in R, counted in steps and examples as the engine does.

        With `full_steps`, as if full runs had so many steps, and short runs as many as they have.
        """
        lengths = replace(self.lengths, full_steps=full_steps or self.lengths.full_steps)
        longer = lengths.full_steps - self.lengths.full_steps
        paid = [
            (m.fidelity, m.trained_steps + longer * (m.fidelity.split == "confirm")) for m in self.measured
        ]
        return math.fsum(lengths.cost(replace(fidelity, train_steps=steps)) for fidelity, steps in paid)


def _subset(scores: np.ndarray, n: int) -> np.ndarray:
    """The scores of so many examples, the same ones for every plan."""
    if n >= len(scores):
        return scores
    return scores[np.sort(np.random.default_rng(_SUBSET).permutation(len(scores))[:n])]

"""Charts of the short trial runs: loss by learning rate, and which plans went on to longer runs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes

from autopeft.records import Measurement, Plan, SearchResult, Status, rate
from autopeft.report.charts.canvas import Sheet, group_colour, log_axis, sheet
from autopeft.report.charts.marks import cut_above, loss_axis, point, rates
from autopeft.report.measured import is_untrained
from autopeft.report.naming import Group
from autopeft.report.words import loss

_CROSS: dict[str, Any] = {"marker": "x", "markersize": 9, "markeredgewidth": 1.4, "linestyle": "none"}
_CROSS |= {"zorder": 5, "clip_on": False}


def short_runs(result: SearchResult) -> tuple[tuple[Measurement, ...], ...]:
    """The finished runs of each rung with a finite loss, shortest first; rungs without any are left out."""
    by_steps: dict[int, list[Measurement]] = {}
    for run in result.measurements:
        is_finite = run.loss is not None and math.isfinite(run.loss)
        if run.fidelity.split == "search" and run.status is Status.COMPLETE and is_finite:
            by_steps.setdefault(run.fidelity.train_steps, []).append(run)
    return tuple(tuple(by_steps[steps]) for steps in sorted(by_steps))


def loss_by_rate(
    result: SearchResult, rungs: Sequence[Sequence[Measurement]], groups: Mapping[Plan, Group]
) -> Sheet | None:
    """Loss by learning rate; the longest runs are filled, shorter ones paler, the shortest hollow.

    Edges and lines have the full colour, so that pale points can be told from the paper, too.

    A line joins the rates of equal plans at one rung. None for fewer than two runs with a learning rate.
    """
    shown = _trained(result, rungs)
    runs = [run for rung in shown for run in rung]
    if len(runs) < 2:
        return None
    with sheet("rates") as drawn:
        axes = drawn.axes
        log_axis(axes, [run.plan.learning_rate for run in runs], shown=rates)
        loss_axis(axes, _losses(runs))
        heights = _heights(axes, runs)
        for place, rung in enumerate(shown):
            filled = 1.0 if len(shown) < 2 else place / (len(shown) - 1)
            for line in _same_places(rung):
                axes.plot(
                    [r.plan.learning_rate for r in line],
                    [heights[r] for r in line],
                    color=group_colour(groups[line[0].plan].colour),
                    linewidth=0.8,
                    zorder=2,
                )
            for run in rung:
                group, x = groups[run.plan], run.plan.learning_rate
                key = f"{run.plan.digest}-{run.fidelity.train_steps}"
                gid = drawn.named(key, _title(run, group))
                point(drawn, x, heights[run], group=group, gid=gid, filled=filled)
        axes.set_xlabel("learning rate")
        return drawn.labelled(
            "Loss by learning rate, for each group of plans and length of the trial run",
            headings=("plan", "learning rate", *(f"after {_steps(rung[0])}" for rung in shown)),
            rows=_in_numbers(shown, groups),
        )


def who_went_on(
    result: SearchResult, rungs: Sequence[Sequence[Measurement]], groups: Mapping[Plan, Group]
) -> Sheet | None:
    """The loss of each trained plan along the rungs: a cross where it stopped; None below two rungs."""
    rungs = _trained(result, rungs)
    if len(rungs) < 2:
        return None
    by_plan: dict[Plan, list[tuple[int, Measurement]]] = {}
    for place, rung in enumerate(rungs):
        for run in rung:
            by_plan.setdefault(run.plan, []).append((place, run))
    with sheet("rungs") as drawn:
        axes, last = drawn.axes, len(rungs) - 1
        runs = [run for rung in rungs for run in rung]
        loss_axis(axes, _losses(runs))
        heights = _heights(axes, runs)
        for plan, line in by_plan.items():
            group, went_on = groups[plan], len(line) > 1
            colour = group_colour(group.colour)
            losses = [heights[run] for _, run in line]
            axes.plot([n for n, _ in line], losses, color=colour, linewidth=1.5 if went_on else 1, zorder=2)
            for (place, run), height in zip(line, losses, strict=True):
                gid = drawn.named(f"{plan.digest}-{run.fidelity.train_steps}", _title(run, group))
                stopped = place == line[-1][0] and place < last
                point(drawn, place, height, group=group, gid=gid, filled=0.0 if stopped else 1.0)
                if stopped:  # over the shape of its group, which readers tell apart who see no hues
                    axes.plot([place], [height], color=colour, **_CROSS)
        axes.set_xlim(-0.3, last + 0.3)
        axes.set_xticks(range(len(rungs)), [f"{rung[0].fidelity.train_steps:,}" for rung in rungs])
        axes.set_xlabel("training steps")
        return drawn.labelled("Loss of every plan after each length of trial run, and where it stopped")


def _in_numbers(
    rungs: Sequence[Sequence[Measurement]], groups: Mapping[Plan, Group]
) -> Iterator[tuple[str, ...]]:
    """A row per plan, by group and rate: both, and its loss at each rung."""
    losses = {(run.plan, place): run.loss for place, rung in enumerate(rungs) for run in rung}
    plans = sorted({plan for plan, _ in losses}, key=lambda p: (groups[p].colour, p.learning_rate, p.digest))
    for plan in plans:
        reached = (loss(losses.get((plan, place))) for place in range(len(rungs)))
        yield groups[plan].label, rate(plan.learning_rate), *reached


def _steps(run: Measurement) -> str:
    return f"{run.fidelity.train_steps:,} step{'s' * (run.fidelity.train_steps != 1)}"


def _trained(result: SearchResult, rungs: Sequence[Sequence[Measurement]]) -> list[list[Measurement]]:
    """The rungs without the untrained model, which has neither steps nor a learning rate."""
    trained = ([run for run in rung if not is_untrained(result, run.plan)] for rung in rungs)
    return [rung for rung in trained if rung]


def _losses(runs: Sequence[Measurement]) -> list[float]:
    return [run.loss for run in runs if run.loss is not None]


def _heights(axes: Axes, runs: Sequence[Measurement]) -> dict[Measurement, float]:
    """Where the loss of each run is drawn."""
    return dict(zip(runs, cut_above(axes, _losses(runs)), strict=True))


def _same_places(rung: Sequence[Measurement]) -> list[list[Measurement]]:
    """Runs of one rung that differ in the learning rate alone, by rate; only where there are two or more."""
    lines: dict[object, list[Measurement]] = {}
    for run in rung:
        places = tuple((a.method, a.site, a.rank) for a in run.plan.adapters)
        lines.setdefault(places, []).append(run)
    ordered = (sorted(line, key=lambda run: run.plan.learning_rate) for line in lines.values())
    return [line for line in ordered if len(line) > 1]


def _title(run: Measurement, group: Group) -> str:
    return f"{group.label}, rate {rate(run.plan.learning_rate)}: loss {run.loss:.4f} after {_steps(run)}"

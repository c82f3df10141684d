"""Charts of what was confirmed: score against parameters, equal seeds of all plans, and the verdict."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from textwrap import wrap
from typing import Any

from matplotlib.ticker import FuncFormatter, MaxNLocator

from autopeft.records import Confirmation, Measurement, Plan, SearchResult, Verdict, minus
from autopeft.report.charts.canvas import BAND, INK, SOFT, Sheet, group_colour, log_axis, sheet
from autopeft.report.charts.marks import (
    cut_above,
    loss_axis,
    metric_axis,
    name_beside,
    name_points,
    parameters,
    point,
    within_shares,
)
from autopeft.report.naming import Group
from autopeft.report.words import count, difference, loss, metric, within_share

_Z95 = 1.96  # half a 95 % interval in standard errors, of the normal distribution
# A plan is named at the edge where it lies this many times the span of the other plans beyond them: on the
# axis it would squeeze these. Chosen by hand.
_FAR_OFF = 2.0
_LINE = 40  # characters of the names side by side below the seeds; chosen by hand for the width of a chart
_MAX_SEEDS_NAMED = 6  # chosen by hand: more names would overlap


def score_by_parameters(
    result: SearchResult,
    confirmed: Sequence[Confirmation],
    groups: Mapping[Plan, Group],
    names: Mapping[Plan, str],
    *,
    is_share: bool,
) -> Sheet | None:
    """Confirmed plans by parameters and metric, with 95 % intervals, front, budget and the head alone.

    None where fewer than two plans were confirmed, or none with adapters.
    """
    adapted = [record for record in confirmed if record.plan.adapters]
    if not adapted or len(confirmed) < 2:
        return None
    budget = result.setting.budget.max_trainable_params
    with sheet("score") as drawn:
        axes = drawn.axes
        log_axis(axes, [*(r.plan.trainable_params for r in adapted), budget], shown=parameters)
        for record in adapted:
            size, mean = record.plan.trainable_params, record.metric_mean
            low, high = _interval(record, is_share=is_share)
            group = groups[record.plan]
            title = f"{names[record.plan]}: {metric(mean, is_share)}, {count(size)} parameters"
            style: dict[str, Any] = {"color": group_colour(group.colour), "linewidth": 1.4, "zorder": 3}
            axes.errorbar([size], [mean], [[mean - low], [high - mean]], capsize=4, **style)
            point(drawn, size, mean, group=group, gid=drawn.named(record.plan.digest, title))
        metric_axis(axes, f"{result.setting.metric_words} ({adapted[0].split} split)", is_share=is_share)
        points = [(r.plan.trainable_params, r.metric_mean) for r in adapted]
        _front(drawn, points, upwards=result.setting.greater_is_better)
        for head in (record for record in confirmed if not record.plan.adapters):
            below = _far_below(head, adapted, is_share=is_share)
            _head_line(drawn, head, names[head.plan], far_below=below, is_share=is_share)
        _budget_line(drawn, budget)
        if is_share:
            within_shares(axes)
        name_points(drawn, [(r.plan.trainable_params, r.metric_mean, names[r.plan]) for r in adapted])
        return drawn.labelled(
            f"{result.setting.metric_words} of the confirmed plans by trainable parameters",
            headings=("plan", "adapter parameters", result.setting.metric_words, "95 % interval"),
            rows=[_in_numbers(record, names[record.plan], is_share=is_share) for record in confirmed],
        )


def _interval(record: Confirmation, *, is_share: bool) -> tuple[float, float]:
    """The ends of a plan's 95 % interval, for a share within 0 and 1."""
    mean, reach = record.metric_mean, _Z95 * record.metric_std_error
    if not is_share:
        return mean - reach, mean + reach
    return max(mean - reach, min(mean, 0.0)), min(mean + reach, max(mean, 1.0))


def _in_numbers(record: Confirmation, name: str, *, is_share: bool) -> tuple[str, ...]:
    """A confirmed plan as a row: name, parameters, metric and interval."""
    low, high = (metric(end, is_share) for end in _interval(record, is_share=is_share))
    size, mean = count(record.plan.trainable_params), metric(record.metric_mean, is_share)
    return name, size, mean, f"{low} to {high}"


def loss_by_parameters(
    result: SearchResult,
    runs: Sequence[Measurement],
    groups: Mapping[Plan, Group],
    names: Mapping[Plan, str],
    *,
    others: Sequence[Measurement] = (),
) -> Sheet | None:
    """Short trial runs of one length by parameters and loss, with front and budget; `names` marks some.

    `others` are named plans without a run of that length: hollow, with the length of theirs. None where fewer
    than two plans with adapters are among the runs.
    """
    adapted = [run for run in runs if run.plan.adapters and run.loss is not None]
    if len(adapted) < 2:
        return None
    budget = result.setting.budget.max_trainable_params
    with sheet("score") as drawn:
        axes, points, named = drawn.axes, [], []
        sizes = [run.plan.trainable_params for run in (*adapted, *others)]
        log_axis(axes, [*sizes, budget], shown=parameters)
        runs = [run for run in (*adapted, *others) if run.loss is not None]
        losses = [run.loss for run in runs if run.loss is not None]
        loss_axis(axes, losses)
        for run, height in zip(runs, cut_above(axes, losses), strict=True):
            size, group, is_other = run.plan.trainable_params, groups[run.plan], run in others
            title = f"{group.label}: loss {loss(run.loss)}, {count(size)} parameters"
            gid = drawn.named(run.plan.digest, title)
            point(drawn, size, height, group=group, gid=gid, filled=0.0 if is_other else 1.0)
            points += [] if is_other else [(size, height)]
            if run.plan in names:
                after = f", {count(run.fidelity.train_steps)} steps" if is_other else ""
                named.append((size, height, f"{names[run.plan]}{after}"))
        _front(drawn, points, upwards=False)
        _budget_line(drawn, budget)
        name_points(drawn, named)
        rows = [
            (
                names.get(run.plan, groups[run.plan].label),
                count(run.plan.trainable_params),
                loss(run.loss),
                count(run.fidelity.train_steps),
            )
            for run in runs
        ]
        headings = ("plan", "adapter parameters", "loss", "steps")
        return drawn.labelled("Loss of the trial runs by trainable parameters", headings=headings, rows=rows)


def same_seeds(
    result: SearchResult,
    confirmed: Sequence[Confirmation],
    groups: Mapping[Plan, Group],
    names: Mapping[Plan, str],
    *,
    is_share: bool,
) -> Sheet | None:
    """The metric of each seed, equal seeds joined across plans; None for fewer than two plans or seeds.

    Of a plan far off from all others an arrow at the edge gives the mean.
    """
    if len(confirmed) < 2 or max(len(record.seeds) for record in confirmed) < 2:
        return None
    by_seed: dict[int, list[tuple[int, float]]] = {}
    far = _far_plan(confirmed)
    with sheet("seeds") as drawn:
        axes = drawn.axes
        for column, record in enumerate(confirmed):
            for seed, value in zip(record.seeds, record.metrics, strict=True):
                line = by_seed.setdefault(seed, [])
                if record is far:
                    continue
                line.append((column, value))
                title = f"{names[record.plan]}, seed {seed}: {metric(value, is_share)}"
                gid = drawn.named(f"{record.plan.digest}-{seed}", title)
                point(drawn, column, value, group=groups[record.plan], gid=gid)
        lines = {seed: line for seed, line in by_seed.items() if line}
        for line in lines.values():
            axes.plot(*zip(*line, strict=True), color=SOFT, linewidth=1, zorder=2)
        axes.set_xlim(-0.4, len(confirmed) - 0.45 + 0.15 * len(confirmed))
        width = max(1, _LINE // len(confirmed))
        labels = ["\n".join(wrap(names[r.plan], width, break_long_words=False)) for r in confirmed]
        axes.set_xticks(range(len(confirmed)), labels)
        metric_axis(axes, f"{result.setting.metric_words} ({confirmed[0].split} split)", is_share=is_share)
        axes.margins(y=0.12)
        if is_share:
            within_shares(axes)
        if far is not None:
            _at_edge(drawn, far, column=confirmed.index(far), others=lines.values(), is_share=is_share)
        if len(lines) <= _MAX_SEEDS_NAMED:
            name_beside(drawn, [(*line[-1], f"seed {seed}") for seed, line in lines.items()])
        rows = []
        for record in confirmed:
            by_seed_of_plan = dict(zip(record.seeds, record.metrics, strict=True))
            values = (metric(by_seed_of_plan.get(seed), is_share) for seed in by_seed)
            rows.append((names[record.plan], *values))
        return drawn.labelled(
            f"{result.setting.metric_words} of every confirming run, equal seeds joined",
            headings=("plan", *(f"seed {seed}" for seed in by_seed)),
            rows=rows,
        )


def _far_plan(confirmed: Sequence[Confirmation]) -> Confirmation | None:
    """The plan all of whose seeds lie far from those of the others, two at least; None where there is none.

    No two plans can be: with one of them among the others, their span reaches to the other one.
    """
    for record in confirmed if len(confirmed) > 2 else ():
        others = [value for other in confirmed if other is not record for value in other.metrics]
        low, high = min(others), max(others)
        reach = _FAR_OFF * (high - low)
        if low < high and (max(record.metrics) < low - reach or min(record.metrics) > high + reach):
            return record
    return None


def _at_edge(
    drawn: Sheet,
    far: Confirmation,
    *,
    column: int,
    others: Iterable[Sequence[tuple[int, float]]],
    is_share: bool,
) -> None:
    """An arrow at the edge of a column, with the mean of a plan that lies beyond."""
    is_below = far.metric_mean < min(value for line in others for _, value in line)
    drawn.axes.annotate(
        f"{'↓' if is_below else '↑'} {metric(far.metric_mean, is_share)}",
        (column, 0.0 if is_below else 1.0),
        xycoords=("data", "axes fraction"),
        xytext=(0, 4 if is_below else -4),
        textcoords="offset points",
        ha="center",
        va="bottom" if is_below else "top",
        color=INK,
    )


def verdict_interval(verdict: Verdict, candidate: str, baseline: str, *, is_share: bool) -> Sheet | None:
    """The difference to the baseline with its 95 % interval and the margin; None without an interval."""
    if verdict.interval_95 is None or verdict.mean_difference is None:
        return None
    low, high = map(within_share, verdict.interval_95) if is_share else verdict.interval_95
    reach = 1.2 * max(abs(low), abs(high), verdict.margin)
    scale = 100 if is_share else 1
    with sheet("difference", height=150) as drawn:
        axes = drawn.axes
        axes.axvspan(-verdict.margin, verdict.margin, color=BAND, linewidth=0, zorder=1)
        for edge in (-verdict.margin, verdict.margin):  # the band alone is too pale for weak eyes
            axes.axvline(edge, color=SOFT, linewidth=0.8, zorder=1)
        axes.axvline(0, color=SOFT, linestyle=(0, (4, 3)), linewidth=1.2, zorder=2)
        axes.plot([low, high], [0, 0], color=INK, linewidth=2.2, zorder=3, solid_capstyle="butt")
        axes.plot([low, high], [0, 0], color=INK, marker="|", markersize=12, linestyle="none", zorder=3)
        title = f"{difference(verdict.mean_difference, is_share)}"
        gid = drawn.named("mean", title)
        axes.plot([verdict.mean_difference], [0], color=INK, marker="o", markersize=9, gid=gid, zorder=4)
        axes.set_xlim(-reach, reach)
        axes.set_ylim(-1, 1.6)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6))
        axes.xaxis.set_major_formatter(
            FuncFormatter(lambda value, _: minus(f"{Decimal(f'{scale * value:g}'):+f}" if value else "0"))
        )
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.text(-reach, 1.25, f"← {baseline} better", ha="left", va="center", color=INK)
        axes.text(reach, 1.25, f"{candidate} better →", ha="right", va="center", color=INK)
        axes.set_xlabel("difference in points" if is_share else "difference, as the reader gains")
        bounds = f"{difference(low, is_share)} to {difference(high, is_share)}"
        margin = difference(verdict.margin, is_share, signed=False)
        words = f"{title}, 95 % interval {bounds}; a difference within ± {margin} counts as none"
        return drawn.labelled(f"{candidate} against {baseline}: {words}")


def _front(drawn: Sheet, points: Sequence[tuple[float, float]], *, upwards: bool) -> None:
    """The line of plans that no smaller plan equals or beats."""
    front: list[tuple[float, float]] = []
    for size, value in sorted(points, key=lambda p: (p[0], -p[1] if upwards else p[1])):
        if not front or (value > front[-1][1] if upwards else value < front[-1][1]):
            front.append((size, value))
    if len(front) > 1:
        style: dict[str, Any] = {"color": SOFT, "linewidth": 1.1, "zorder": 2}
        drawn.axes.step(*zip(*front, strict=True), where="post", gid=drawn.named("front", "front"), **style)


def _far_below(head: Confirmation, others: Sequence[Confirmation], *, is_share: bool) -> bool | None:
    """Whether the head alone lies far below the other plans, or far above them; None where it is near.

    It is always near a single other plan, which has nothing else beside it.
    """
    ends = [end for record in others for end in _interval(record, is_share=is_share)]
    low, high, mean = min(ends), max(ends), head.metric_mean
    reach = _FAR_OFF * (high - low)
    if len(others) < 2 or low == high or low - reach <= mean <= high + reach:
        return None
    return mean < low


def _head_line(
    drawn: Sheet, head: Confirmation, name: str, *, far_below: bool | None, is_share: bool
) -> None:
    """The line of the head alone; where that is far off, its metric in words at the edge."""
    mean = head.metric_mean
    drawn.axes.margins(y=0.14)
    if far_below is not None:
        drawn.axes.annotate(
            f"{'↓' if far_below else '↑'} {name}: {metric(mean, is_share)}",
            (0.01, 0.0 if far_below else 1.0),
            xycoords="axes fraction",
            xytext=(0, 5 if far_below else -5),
            textcoords="offset points",
            va="bottom" if far_below else "top",
            color=INK,
        )
        return
    gid = drawn.named("head", f"{name}: {mean:.4f}")
    style: dict[str, Any] = {"color": group_colour(1), "linestyle": (0, (2, 2)), "linewidth": 1.4}
    drawn.axes.axhline(mean, gid=gid, zorder=2, **style)
    drawn.axes.annotate(
        name,
        (0.01, mean),
        xycoords=("axes fraction", "data"),
        xytext=(0, 5),
        textcoords="offset points",
        va="bottom",
        color=INK,
    )


def _budget_line(drawn: Sheet, budget: int) -> None:
    axes = drawn.axes
    axes.set_xlabel("trainable parameters")
    gid = drawn.named("budget", f"budget: {count(budget)} parameters")
    axes.axvline(budget, color=SOFT, linestyle=(0, (5, 3)), linewidth=1.2, zorder=1, gid=gid)
    axes.annotate(
        "budget",
        (budget, 0.0),
        xycoords=("data", "axes fraction"),
        xytext=(4, 5),
        textcoords="offset points",
        ha="left",
        color=SOFT,
    )

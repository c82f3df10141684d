"""Everything that the templates lay out, for one result and for several, with the charts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import PurePath
from typing import Any

from markupsafe import Markup

from autopeft.records import (
    Measurement,
    SearchResult,
    confirm_command,
    in_words_of,
    repeat_command,
    train_command,
)
from autopeft.report import card, charts, maps, measured, view
from autopeft.report.charts import Sheet, short_runs
from autopeft.report.headline import Headline, headline
from autopeft.report.maps import seen_enough
from autopeft.report.measured import edge_sentence, rate_words
from autopeft.report.naming import Group, Naming, PlanRow, chart_names, confirmed_plans, summary
from autopeft.report.rendering import render
from autopeft.report.tables import arms_of_plans, first_proposals, result_json, sentences_of
from autopeft.report.words import PartWords, plan_words

_FEW = 3  # plans at a rung that are too few to compare; chosen by hand


class Drawing:
    """The charts of a result; each is None where the result has too little to draw."""

    def __init__(self, result: SearchResult, words: PartWords) -> None:
        """Name the plans and group them by method."""
        self._result, self._words = result, words
        self._naming = Naming(result=result, words=words, first=first_proposals(result))
        self._groups = self._naming.groups()
        self._names = chart_names(result, self._naming)
        self._confirmed = confirmed_plans(result)
        self._rungs = short_runs(result)

    @cached_property
    def is_confirmed(self) -> bool:
        """Whether the first chart shows confirmed plans and not short trial runs."""
        return len(self._confirmed) > 1 and any(record.plan.adapters for record in self._confirmed)

    @property
    def score_steps(self) -> int:
        """Steps of the short trial runs that stand in where nothing is confirmed; 0 without any."""
        trials = self._trials
        return trials[0].fidelity.train_steps if trials else 0

    @property
    def _trials(self) -> Sequence[Measurement]:
        """The longest rung with enough plans to compare; else the first rung, which has all of them."""
        enough = (rung for rung in reversed(self._rungs) if len(rung) > _FEW)
        return next(enough, next(iter(self._rungs), ()))

    @property
    def _other_trials(self) -> Sequence[Measurement]:
        """The longest run of each named plan with adapters that never ran as long as those of `_trials`."""
        drawn = {run.plan for run in self._trials}
        longest = {run.plan: run for rung in self._rungs for run in rung}
        return [run for plan, run in longest.items() if plan in self._names.keys() - drawn and plan.adapters]

    def score(self) -> Sheet | None:
        """Score by parameters with the front; the loss of short trial runs where nothing is confirmed."""
        if not self.is_confirmed:
            return charts.loss_by_parameters(
                self._result, self._trials, self._groups, self._names, others=self._other_trials
            )
        return charts.score_by_parameters(
            self._result, self._confirmed, self._groups, self._names, is_share=self._words.metric_is_share
        )

    def seeds(self) -> Sheet | None:
        """The metric of each seed, equal seeds joined."""
        return charts.same_seeds(
            self._result, self._confirmed, self._groups, self._names, is_share=self._words.metric_is_share
        )

    def difference(self) -> Sheet | None:
        """The difference to the baseline with its interval and the margin."""
        candidate = self._naming.short(self._result.incumbent)
        baseline = self._naming.short(self._result.baseline)
        is_share = self._words.metric_is_share
        return charts.verdict_interval(self._result.verdict, candidate, baseline, is_share=is_share)

    def rates(self) -> Sheet | None:
        """Loss by learning rate."""
        return charts.loss_by_rate(self._result, self._rungs, self._groups)

    def rungs(self) -> Sheet | None:
        """The loss of each plan along the rungs, and where it stopped."""
        return charts.who_went_on(self._result, self._rungs, self._groups)


@dataclass(frozen=True, kw_only=True)
class Charts:
    """The charts of a result, each None where there is too little to draw.

    `score_steps` is the length of the runs in the first chart where nothing was confirmed, else 0. `numbers`
    are the charts that have their numbers as a table; `rungs` has those of `rates`, `difference` says its own
    in the label. `legend` are the groups of plans that are drawn, `score_legend` those in the first chart.
    """

    score: Markup | None
    score_steps: int
    seeds: Markup | None
    difference: Markup | None
    rates: Markup | None
    rungs: Markup | None
    numbers: tuple[Sheet, ...]
    legend: tuple[Group, ...]
    score_legend: tuple[Group, ...]


def contents(result: SearchResult, words: PartWords, status: str) -> dict[str, Any]:
    """What both templates of one result show."""
    answer = result_json(result, status)
    told = partial(in_words_of, result.spec)
    arms = arms_of_plans(result)
    naming = Naming(result=result, words=words, first=first_proposals(result))
    rows = summary(result, naming)
    return {
        "result": result,
        "verdict_sentence": told(result.verdict.sentence),
        "sentences": [told(sentence) for sentence in sentences_of(result)],
        "is_search_late": measured.has_late_starters(result),
        "split_uses": measured.split_uses(result),
        "has_weights": bool(result.confirmations) and not measured.has_failed(result, result.best),
        "load_sentence": card.load_sentence(result, words),
        "max_cost": told("--max-cost"),
        "setting": result.setting,
        "is_share": words.metric_is_share,
        "status": status,
        "answer": answer,
        "headline": headline(result, naming, rows),
        "summary": rows,
        "rungs_in_words": measured.rungs_in_words(result),
        "examples": partial(measured.examples, result),
        "in_groups": partial(measured.in_groups, result),
        "rung_steps": [rung[0].fidelity.train_steps for rung in short_runs(result)],
        "plan_words": partial(plan_words, labels=words.labels, head=naming.head),
        "best_rate": rate_words(result.best, result),
        "edge_sentence": edge_sentence(result),
        "is_untrained": partial(measured.is_untrained, result),
        "about_interval": view.about_interval(result.verdict),
        "confirmed": view.confirmed(result, arms),
        "proxies": view.proxies(result, arms),
        "spent": view.spent(result),
        "failures": view.failures(result, arms),
        "max_rows": view.MAX_ROWS,
        "rank_map": maps.merged(maps.rank_map(result.sites, result.best, words.short_labels)),
        "score_maps": tuple(map(maps.merged, maps.score_maps(result))),
        "max_layers": maps.MAX_ROWS,
        "seen": {score.name: seen_enough(score) for score in result.scores},
        "scoring": view.scoring(result),
        "costs": view.costs(result),
        "confirm_steps": view.confirm_steps(result),
        "error_over": measured.error_over(result),
        "n_seeds": max((len(record.seeds) for record in result.confirmations), default=0),
        "is_command": not result.spec.is_in_memory,
        "go_on": (
            train_command(PurePath("best/plan.yaml"), result.spec.model, result.spec.data),
            confirm_command(result.spec, PurePath("run.yaml"))
            if result.verdict.label == "none"
            else repeat_command(result.spec),
        ),
        "python_lines": card.python_lines(result, words),
        "settings": [(told(name), told(value)) for name, value in view.settings(result)],
    }


def answer_of(result: SearchResult, words: PartWords) -> Headline:
    """The answer in plain words."""
    naming = Naming(result=result, words=words, first=first_proposals(result))
    return headline(result, naming, summary(result, naming))


def summary_of(result: SearchResult, words: PartWords) -> tuple[PlanRow, ...]:
    """Baseline, best, smallest and head alone, each plan once."""
    return summary(result, Naming(result=result, words=words, first=first_proposals(result)))


def drawn(result: SearchResult, words: PartWords) -> Charts:
    """The charts of one result."""
    drawing = Drawing(result, words)
    score, seeds, rates, rungs = drawing.score(), drawing.seeds(), drawing.rates(), drawing.rungs()
    return Charts(
        score=_svg(score),
        score_steps=0 if drawing.is_confirmed else drawing.score_steps,
        seeds=_svg(seeds),
        difference=_svg(drawing.difference()),
        rates=_svg(rates),
        rungs=_svg(rungs),
        numbers=tuple(sheet for sheet in (score, seeds, rates) if sheet is not None),
        legend=_legend(score, seeds, rates, rungs),
        score_legend=_legend(score),
    )


def _legend(*sheets: Sheet | None) -> tuple[Group, ...]:
    """The groups with a point in one of the charts, in the order of their colours."""
    groups = {group for sheet in sheets if sheet is not None for group in sheet.groups}
    return tuple(sorted(groups, key=lambda group: group.colour))


def _svg(chart: Sheet | None) -> Markup | None:
    return None if chart is None else chart.svg()


def several_html(runs: Sequence[tuple[str, SearchResult, PartWords]]) -> str:
    """One self-contained page about several runs, each given by name, result and the words of its parts."""
    return render("runs.html", runs=[_run(number, *run) for number, run in enumerate(runs, 1)])


def _run(number: int, name: str, result: SearchResult, words: PartWords) -> dict[str, Any]:
    everything = contents(result, words, "complete")
    kept = ("setting", "is_share", "headline", "summary", "confirm_steps", "error_over")
    charts, rows = drawn(result, words), everything["summary"]
    best, default = (next(row for row in rows if mark in row.marks) for mark in ("best", "baseline"))
    cost = result.cost
    score = best.test or best.confirm
    return {
        **{key: everything[key] for key in kept},
        "name": name,
        "anchor": f"run-{number}",
        "verdict": result.verdict,
        "best": best,
        "score": score,
        "default_score": default.test if best.test else default.confirm,
        "split": score.split if score else "",
        "seconds": cost.known_seconds,
        "legend": charts.score_legend,
        "numbers": charts.numbers[: 1 if charts.score else 0],
        "score_chart": _renamed(charts.score, number),
        "score_steps": charts.score_steps,
        "difference_chart": _renamed(charts.difference, number),
    }


def _renamed(chart: Markup | None, number: int) -> Markup | None:
    """The chart with ids that no other run's chart has."""
    return None if chart is None else Markup(re.sub(r'(id="|#)', rf"\1run{number}-", str(chart)))

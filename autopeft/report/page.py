"""Everything that the templates lay out, for one result and for several."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import PurePath
from typing import Any

from markupsafe import Markup

from autopeft.records import SearchResult, confirm_command, in_words_of, repeat_command, train_command
from autopeft.report import maps, measured, usage, view
from autopeft.report.charts import Sheet, short_runs
from autopeft.report.drawing import Drawing
from autopeft.report.headline import Headline, headline
from autopeft.report.heat import seen_enough
from autopeft.report.named_plans import PlanRow, summary
from autopeft.report.naming import Group, Naming
from autopeft.report.positions import edge_sentence, rate_words
from autopeft.report.tables import arms_of_plans, first_proposals, result_json, sentences_of
from autopeft.report.words import PartWords, plan_words


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
        "load_sentence": usage.load_sentence(result, words),
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
        "python_lines": usage.python_lines(result, words),
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

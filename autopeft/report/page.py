"""What the templates of a report show: the page and the Markdown of one run, and the page of several runs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import PurePath
from typing import Any

from autopeft.records import SearchResult, in_words_of, repeat_command, train_command
from autopeft.report import card, charts, layer_maps, rows
from autopeft.report.answer import answer_of
from autopeft.report.formatting import PartWords
from autopeft.report.plan_names import groups, is_untrained, marks_of, no_adapters, plan_words
from autopeft.report.rendering import render
from autopeft.report.result_files import sentences_of

_MAX_ROWS = 40  # of a table; chosen by hand: as many as a reader scrolls through; trials.csv has the rest


def report_html(result: SearchResult, *, words: PartWords, status: str = "complete") -> str:
    """One self-contained HTML page: nothing is loaded from elsewhere, all names are escaped."""
    by_plan = groups(result, words)
    short_runs = charts.short_run_chart(result, by_plan)
    sizes = charts.size_chart(result, is_share=words.metric_is_share)
    drawn = {point.group for point in short_runs.points} if short_runs else set()
    contents = _contents(result, words, status)
    return render(
        "report.html",
        **contents,
        run=contents,
        difference_chart=charts.difference_chart(result, is_share=words.metric_is_share),
        short_run_chart=short_runs and short_runs.svg(),
        n_above=short_runs.n_above if short_runs else 0,
        size_chart=sizes and sizes.svg(),
        legend=sorted(drawn, key=lambda group: group.colour),
        shapes=charts.SHAPES,
    )


def report_md(result: SearchResult, *, words: PartWords, status: str = "complete") -> str:
    """The same report in GitHub's Markdown, without charts."""
    return render("report.md", **_contents(result, words, status))


def several_html(runs: Sequence[tuple[str, SearchResult, PartWords]]) -> str:
    """One self-contained page about several runs, each given by name, result and the words of its parts."""
    shown = [
        {
            **_contents(result, words, "complete"),
            "name": name,
            "anchor": f"run-{number}",
            "difference_chart": charts.difference_chart(result, is_share=words.metric_is_share),
        }
        for number, (name, result, words) in enumerate(runs, 1)
    ]
    return render("runs.html", runs=shown)


def _contents(result: SearchResult, words: PartWords, status: str) -> dict[str, Any]:
    in_words = partial(in_words_of, result.spec)
    runs = rows.short_runs(result)
    return {
        "result": result,
        "setting": result.setting,
        "verdict": result.verdict,
        "is_share": words.metric_is_share,
        "status": status,
        "answer": answer_of(result, words),
        "sentences": [in_words(sentence) for sentence in sentences_of(result)],
        "rows": rows.full_rows(result),
        "plan_words": partial(plan_words, sites=result.sites, labels=words.labels, head=no_adapters(result)),
        "is_untrained": partial(is_untrained, result),
        "short_runs": runs[:_MAX_ROWS],
        "n_more": max(0, len(runs) - _MAX_ROWS),
        "failures": rows.failures(result)[:_MAX_ROWS],
        "sources": rows.sources(result),
        "marks_of": partial(marks_of, result),
        "error_over": rows.error_over(result),
        "examples": partial(rows.examples, result),
        "costs": rows.costs(result),
        "best_rate": rows.rate_words(result.best, result),
        "edge_sentence": rows.edge_sentence(result),
        "rank_map": layer_maps.merged(layer_maps.rank_map(result.sites, result.best, words.short_labels)),
        "score_maps": [layer_maps.merged(shown) for shown in layer_maps.score_maps(result)],
        "max_layers": layer_maps.MAX_ROWS,
        "seen": {score.name: layer_maps.seen_enough(score) for score in result.scores},
        "is_command": not result.spec.is_in_memory,
        "train": train_command(PurePath("best/plan.yaml"), result.spec.model, result.spec.data),
        "repeat": repeat_command(result.spec),
        "load_sentence": card.load_sentence(result, words),
        "python_lines": card.python_lines(result, words),
        "settings": [(in_words(name), in_words(value)) for name, value in _settings(result)],
    }


def _settings(result: SearchResult) -> list[tuple[str, str]]:
    """The settings that decide most, then those that the run derived; run.yaml has them all."""
    spec, setting = result.spec, result.setting
    chosen = {
        "model": spec.model.id or f"default ({setting.base_model})",
        "quantised": "" if spec.model.quantize == "none" else f"{spec.model.quantize} by bitsandbytes",
        "data": spec.data.source or f"default ({setting.data})",
        "task": spec.task.name,
        "budget": spec.budget.requested + (", head counted in" if spec.budget.count_head else ""),
        "full run": f"{setting.full_run_steps:,} steps",
        "short run": f"{result.short_steps:,} steps",
        "batch size": str(spec.task.batch_size or ""),
        "max length": f"{spec.task.max_length} tokens" if spec.task.max_length else "",
        "effort": spec.search.effort,
        "search space": spec.search.space,
        "methods": ", ".join(spec.search.methods) or "all of the space",
        "sensitivity score": spec.search.score,
        "seed": str(spec.search.seed),
        "executor": f"{spec.execution.executor}, {result.environment.get('workers', '1')} at a time",
    }
    derived = [(f"{d.subject}, derived", f"{d.value}: {d.rule}") for d in setting.decisions]
    return [*((name, value) for name, value in chosen.items() if value), *derived]

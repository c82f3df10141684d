"""The pages that people read: a run as HTML and Markdown, a summary for notebooks, and lines of Python."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

from autopeft.report.answer import answer_of
from autopeft.report.charts import LossCurve, TrialMark, curves_chart, difference_chart, trials_chart
from autopeft.report.formatting import render
from autopeft.report.layer_maps import MAX_ROWS, enough_examples, rank_map, score_map
from autopeft.report.plan_names import PartWords, method_words, name_of
from autopeft.report.result_files import sentences_of
from autopeft.report.table_rows import costs, examples, full_rows, position_of, run_rows
from autopeft.types import (
    IN_MEMORY,
    QUANTIZED,
    Plan,
    SearchResult,
    SearchSoFar,
    Status,
    TrainedPlan,
    repeat_command,
    train_command,
)

BEST_WEIGHTS = "best/weights"  # in the folder of a run
_MAX_RUNS = 40  # of a table; heuristic; trials.csv has the rest
_IMAGE_CLASS = "AutoModelForImageClassification"  # its base models come with an image processor, no tokenizer


def report_html(
    result: SearchResult | SearchSoFar,
    *,
    words: PartWords,
    status: str = "complete",
    curves: Sequence[LossCurve] = (),
) -> str:
    """Return one self-contained HTML page: it loads nothing, and all names are escaped.

    `status` is complete, or a sentence that begins with running, stopped or failed. `curves` are the training
    losses of full runs that have no verdict yet.
    """
    is_share = result.setting.metric_is_share
    return render(
        "report.html",
        page=_content(result, words, status),
        trials_chart=trials_chart(_trials(result, words)),
        curves_chart=curves_chart(curves),
        difference_chart=difference_chart(result.verdict, is_share=is_share)
        if isinstance(result, SearchResult)
        else None,
    )


def report_md(result: SearchResult, *, words: PartWords) -> str:
    """Return the same report in GitHub's Markdown, without charts."""
    return render("report.md", page=_content(result, words, "complete"))


def _content(result: SearchResult | SearchSoFar, words: PartWords, status: str) -> dict[str, Any]:
    """Gather what the templates show; an unfinished run has no answer and no best plan (None)."""
    spec, setting = result.spec, result.setting
    finished = result if isinstance(result, SearchResult) else None
    full, short = full_rows(finished, words) if finished else (), run_rows("search", result, words)
    scores = sorted(result.scores, key=lambda score: score.name != spec.search.score)
    maps = ((score_map(result.targets, score), enough_examples(score)) for score in scores)
    failed = [run for run in result.measurements if run.status is not Status.COMPLETE]
    environment = sorted(result.environment.items(), key=lambda item: item[0].lower())
    if setting.data_fingerprint:
        environment.append(("data fingerprint", setting.data_fingerprint))
    return {
        "spec": spec,
        "setting": setting,
        "is_share": setting.metric_is_share,
        "status": status,
        "is_running": status.startswith("running"),  # the page then loads itself again
        "answer": finished and answer_of(finished, words),
        "verdict": finished and finished.verdict,
        "notes": sentences_of(result),
        "full_rows": full,
        "n_seeds": max((len(row.confirm.seeds) for row in full), default=1),
        "sizes": [(name_of(step.plan, result, words.labels), step) for step in result.sizes],
        "short_rows": short,
        "short_steps": max((row["run"].fidelity.train_steps for row in short), default=0),
        "unjudged_rows": run_rows("confirm", result, words) if finished is None else [],
        "failures": [(name_of(run.plan, result, words.labels), run) for run in failed[:_MAX_RUNS]],
        "best": finished and _best_plan(finished, words),
        # The score that ordered the modules is the first.
        "scores": [(drawn, phrase) for drawn, phrase in maps if drawn is not None],
        "splits": _splits(result),
        "costs": costs(finished) if finished else (),
        "settings": _settings(result),
        "environment": environment,
        "max_runs": _MAX_RUNS,
        "max_layers": MAX_ROWS,
    }


def _splits(result: SearchResult | SearchSoFar) -> list[tuple[str, str, str]]:
    """List name, examples and use of each split, and the duplicates that were removed."""
    is_unread = isinstance(result, SearchResult) and not result.test
    uses = {
        **({} if result.spec.has_own_trainer else {"train": "training"}),
        "search": "ranking the short runs",
        "confirm": "judging the full runs",
        "test": "nothing: not read" if is_unread else "one evaluation, after the verdict",
    }
    n_duplicates = f"{result.setting.splits.duplicates_removed:,}"
    splits = [(name, examples(result, name), use) for name, use in uses.items()]
    return [*splits, ("duplicates removed", n_duplicates, "–")]


def _trials(result: SearchResult | SearchSoFar, words: PartWords) -> list[TrialMark]:
    """Return the trials with a loss, in their order."""
    losses = {run.plan: run.loss for run in result.measurements if run.fidelity.split == "search"}
    return [
        TrialMark(
            words=name_of(proposal.plan, result, words.labels),
            method=_method(proposal.plan, words),
            is_listed=proposal.source == "list",
            loss=loss,
        )
        for proposal in result.proposals
        if (loss := losses.get(proposal.plan)) is not None
    ]


def _method(plan: Plan, words: PartWords) -> str:
    """Return the method of a plan in a word or two, as the legend of a chart has it."""
    methods = {method_words(adapter, words.labels) for adapter in plan.adapters} or {"head only"}
    return methods.pop() if len(methods) == 1 else "combination"


def _best_plan(result: SearchResult, words: PartWords) -> dict[str, Any]:
    """Describe how to load and train the plan that is returned, and which modules it adapts.

    The commands, each with its comment, are Python code for objects in memory.
    """
    spec, best = result.spec, result.best
    train = train_command(PurePath("best/plan.yaml"), spec.model, spec.data)
    repeat = ("repeat the whole run", f"{repeat_command(spec)} --out again")
    if spec.has_own_trainer:
        commands = [("count the plan's parameters", "autopeft count best/plan.yaml"), repeat]
    elif spec.is_in_memory:
        commands = [("attach untrained adapters of the plan", train), (repeat[0], repeat_command(spec))]
    else:
        is_merged = result.setting.head_params or best.lead_method != "lora"
        form = "merged" if is_merged else "uniform-lora"
        commands = [
            ("export for servers such as vLLM", f"autopeft export . --to {form} --out served"),
            ("train the plan again", f"{train} --out my-adapter"),
            repeat,
        ]
    return {
        "plan": best,
        "position": position_of(best, result),
        "ranks": rank_map(result.targets, best, words.short_labels),
        "python": python_lines(result, words),
        "commands": commands,
        "is_command": not spec.is_in_memory,
    }


def _settings(result: SearchResult | SearchSoFar) -> list[tuple[str, str]]:
    """List the settings that differ from their defaults, then those that the run derived."""
    spec = result.spec
    changed = spec.model_dump(mode="json", exclude_defaults=True, exclude={"output"})
    rows = [
        (f"{section}.{name}", str(value))
        for section, fields in changed.items()
        for name, value in fields.items()
    ]
    rows += [(f"{d.subject}, derived", f"{d.value}: {d.rule}") for d in result.setting.decisions]
    return rows


def short_text(result: SearchResult, path: str) -> str:
    """Return one line: verdict, metric of the best plan, its parameters, the folder of the run."""
    best = next(record for record in result.full_runs if record.plan == result.best)
    score = f"{result.setting.metric_words} {best.metric_mean:.3f} ± {best.metric_std_error:.3f}"
    return f"Result({result.verdict.label} · {score} · {result.best.trainable_params:,} params · {path})"


def short_html(result: SearchResult, path: str, words: PartWords) -> str:
    """Return a summary for notebooks: answer, full runs, difference and a link to the page."""
    chart = difference_chart(result.verdict, is_share=result.setting.metric_is_share)
    return render("summary.html", page=_content(result, words, "complete"), chart=chart, path=path)


def python_lines(
    result: SearchResult | TrainedPlan,
    words: PartWords,
    *,
    folder: str = BEST_WEIGHTS,
    source: str | None = None,
) -> str:
    """Return Python lines that load the trained adapter, by default for use in the folder of the run.

    `folder` is the adapter's (`best/weights`, or a path that begins with `./`), or its id on the hub.
    `source` is where to load the base model from; None takes the source of the run.
    """
    auto_class = result.setting.auto_class or words.auto_class
    setting, revision, bits = result.setting, result.spec.model.revision, result.spec.model.quantize
    quantized: dict[str, Any] = {}
    if bits != "none":
        quantized = {**QUANTIZED[bits], "llm_int8_skip_modules": list(setting.unquantized)}
        if bits == "4bit":
            quantized["bnb_4bit_compute_dtype"] = result.spec.execution.dtype
    source = source or setting.base_model_source
    path = PurePath(source)
    is_gguf = path.suffix == ".gguf"
    reads_images = auto_class == _IMAGE_CLASS
    return render(
        "load_adapter.py",
        is_in_memory=source == IN_MEMORY,
        auto_class=auto_class,
        reads_images=reads_images,
        loader="AutoImageProcessor" if reads_images else "AutoTokenizer",
        source=json.dumps(str(path.parent) if is_gguf else source, ensure_ascii=False),
        gguf_file=json.dumps(path.name, ensure_ascii=False) if is_gguf else "",
        pinned=f", revision={json.dumps(revision)}" if revision else "",
        n_labels=len(setting.label_names),
        has_config=not result.spec.has_own_trainer,
        quantized={name: repr(value) for name, value in quantized.items()},
        folder=folder,
        tokenizer="name" if result.spec.has_own_trainer else json.dumps(folder),
        sub_folders=list(words.order),
        imports=list(words.imports),
    )

"""The pages that people read: a run as HTML and Markdown, and a summary for notebooks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath

from autopeft.report.answer import Answer, answer_of
from autopeft.report.charts import TrialMark, curves_chart, difference_chart, trials_chart
from autopeft.report.curves import LossCurve
from autopeft.report.formatting import render
from autopeft.report.layer_maps import MAX_ROWS, Map, enough_examples, rank_map, score_map
from autopeft.report.loading_code import python_lines
from autopeft.report.plan_names import PartWords, method_words, name_of
from autopeft.report.result_files import sentences_of
from autopeft.report.table_rows import FullRow, RunRow, costs, examples, full_rows, position_of, run_rows
from autopeft.types import (
    Measurement,
    Plan,
    RunSpec,
    SearchFacts,
    SearchResult,
    SearchSoFar,
    SizeStep,
    Status,
    repeat_command,
    train_command,
)

_MAX_RUNS = 40  # of a table; heuristic; trials.csv has the rest


@dataclass(frozen=True, kw_only=True)
class BestPlan:
    """How to load and train the plan that is returned, and which modules it adapts.

    `position` is where its learning rate lies in the searched range, in [0, 1]; None without a range.
    `commands` pairs each command with its comment. They are Python code for objects in memory, where
    `is_command` is False.
    """

    plan: Plan
    position: float | None
    ranks: Map
    python: str
    commands: tuple[tuple[str, str], ...]
    is_command: bool


@dataclass(frozen=True, kw_only=True)
class RunPage:
    """The content of the report of a run.

    An unfinished run has no answer and no best plan (None), and some empty tables. `status` is complete, or a
    sentence that begins with running, stopped or failed. `short_rows` has the short runs, `unjudged_rows` the
    full runs before a verdict, `curves` their training losses. `scores` pairs each score's map with a phrase
    on whether more examples would change it; the score that ordered the modules is the first. `splits` are
    names, examples and uses; `costs` are stages, seconds and R.
    """

    spec: RunSpec
    setting: SearchFacts
    status: str
    answer: Answer | None
    notes: tuple[str, ...]
    full_rows: tuple[FullRow, ...]
    sizes: tuple[tuple[str, SizeStep], ...]
    short_rows: tuple[RunRow, ...]
    unjudged_rows: tuple[RunRow, ...]
    trials: tuple[TrialMark, ...]
    curves: tuple[LossCurve, ...]
    failures: tuple[tuple[str, Measurement], ...]
    best: BestPlan | None
    scores: tuple[tuple[Map, str], ...]
    splits: tuple[tuple[str, str, str], ...]
    costs: tuple[tuple[str, float, float | None], ...]
    settings: tuple[tuple[str, str], ...]
    environment: tuple[tuple[str, str], ...]

    @property
    def is_share(self) -> bool:
        """Whether the metric lies in [0, 1] and is shown in percent."""
        return self.setting.metric_is_share

    @property
    def is_running(self) -> bool:
        """Whether the page should load itself again."""
        return self.status.startswith("running")

    @property
    def n_seeds(self) -> int:
        """The number of seeds of the full runs."""
        return max((len(row.confirm.seeds) for row in self.full_rows), default=1)

    @property
    def short_steps(self) -> int:
        """The steps of a short run."""
        return max((row.run.fidelity.train_steps for row in self.short_rows), default=0)


def page_of(
    result: SearchResult | SearchSoFar,
    words: PartWords,
    status: str = "complete",
    curves: Sequence[LossCurve] = (),
) -> RunPage:
    """Gather what the report of a run shows, finished or not."""
    finished = result if isinstance(result, SearchResult) else None
    scores = sorted(result.scores, key=lambda score: score.name != result.spec.search.score)
    maps = ((score_map(result.targets, score), enough_examples(score)) for score in scores)
    failed = [run for run in result.measurements if run.status is not Status.COMPLETE]
    environment = sorted(result.environment.items(), key=lambda item: item[0].lower())
    fingerprint, n_duplicates = result.setting.data_fingerprint, result.setting.splits.duplicates_removed
    uses = {
        **({} if result.spec.has_own_trainer else {"train": "training"}),
        "search": "ranking the short runs",
        "confirm": "judging the full runs",
        "test": "read once, after the verdict" if finished is None or finished.test else "not read",
    }
    return RunPage(
        spec=result.spec,
        setting=result.setting,
        status=status,
        answer=answer_of(finished, words) if finished else None,
        notes=tuple(sentences_of(result)),
        full_rows=full_rows(finished, words) if finished else (),
        sizes=tuple((name_of(step.plan, result, words.labels), step) for step in result.sizes),
        short_rows=run_rows("search", result, words),
        unjudged_rows=run_rows("confirm", result, words) if finished is None else (),
        trials=_trials(result, words),
        curves=tuple(curves),
        failures=tuple((name_of(run.plan, result, words.labels), run) for run in failed[:_MAX_RUNS]),
        best=_best_plan(finished, words) if finished else None,
        scores=tuple((drawn, phrase) for drawn, phrase in maps if drawn is not None),
        splits=(
            *((name, examples(result, name), use) for name, use in uses.items()),
            ("duplicates", f"{n_duplicates:,}", "removed, within and across splits"),
        ),
        costs=costs(finished) if finished else (),
        settings=_settings(result),
        environment=(*environment, *([("data fingerprint", fingerprint)] if fingerprint else [])),
    )


def _trials(result: SearchResult | SearchSoFar, words: PartWords) -> tuple[TrialMark, ...]:
    """Return the trials with a loss, in their order."""
    losses = {run.plan: run.loss for run in result.measurements if run.fidelity.split == "search"}
    marks = []
    for proposal in result.proposals:
        loss = losses.get(proposal.plan)
        if loss is not None:
            methods = dict.fromkeys(method_words(a, words.labels) for a in proposal.plan.adapters)
            marks.append(
                TrialMark(
                    words=name_of(proposal.plan, result, words.labels),
                    method=" + ".join(methods) or "head",
                    is_listed=proposal.source == "list",
                    loss=loss,
                )
            )
    return tuple(marks)


def _best_plan(result: SearchResult, words: PartWords) -> BestPlan:
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
            ("for servers such as vLLM", f"autopeft export . --to {form} --out served"),
            ("train the plan again", f"{train} --out my-adapter"),
            repeat,
        ]
    return BestPlan(
        plan=best,
        position=position_of(best, result),
        ranks=rank_map(result.targets, best, words.short_labels),
        python=python_lines(result, words),
        commands=tuple(commands),
        is_command=not spec.is_in_memory,
    )


def _settings(result: SearchResult | SearchSoFar) -> tuple[tuple[str, str], ...]:
    """List the settings that differ from their defaults, then those that the run derived."""
    spec = result.spec
    changed = spec.model_dump(mode="json", exclude_defaults=True, exclude={"output"})
    rows = [
        (f"{section}.{name}", str(value))
        for section, fields in changed.items()
        for name, value in fields.items()
    ]
    rows += [(f"{d.subject}, derived", f"{d.value}: {d.rule}") for d in result.setting.decisions]
    return tuple(rows)


def report_html(result: SearchResult, *, words: PartWords) -> str:
    """Return one self-contained HTML page: it loads nothing, and all names are escaped."""
    return page_html(page_of(result, words))


def page_html(page: RunPage) -> str:
    """Return the HTML page of a run, finished or not."""
    return render(
        "report.html",
        page=page,
        difference_chart=page.answer and difference_chart(page.answer.verdict, is_share=page.is_share),
        trials_chart=trials_chart(page.trials),
        curves_chart=curves_chart(page.curves),
        max_runs=_MAX_RUNS,
        max_layers=MAX_ROWS,
    )


def report_md(result: SearchResult, *, words: PartWords) -> str:
    """Return the same report in GitHub's Markdown, without charts."""
    return render("report.md", page=page_of(result, words), max_runs=_MAX_RUNS, max_layers=MAX_ROWS)


def short_text(result: SearchResult, path: str) -> str:
    """Return one line: verdict, metric of the best plan, its parameters, the folder of the run."""
    best = next(record for record in result.full_runs if record.plan == result.best)
    score = f"{result.setting.metric_words} {best.metric_mean:.3f} ± {best.metric_std_error:.3f}"
    return f"Result({result.verdict.label} · {score} · {result.best.trainable_params:,} params · {path})"


def short_html(result: SearchResult, path: str, words: PartWords) -> str:
    """Return a summary for notebooks: answer, full runs, difference and a link to the page."""
    is_share = result.setting.metric_is_share
    return render(
        "summary.html",
        answer=answer_of(result, words),
        setting=result.setting,
        is_share=is_share,
        chart=difference_chart(result.verdict, is_share=is_share),
        rows=full_rows(result, words),
        path=path,
    )

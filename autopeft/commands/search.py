"""`search`: from settings to a run directory with its report."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import optuna

from autopeft import engine, report
from autopeft.commands.forecast import SearchTime, search_time
from autopeft.engine import Driver, SearchProblem
from autopeft.errors import AutopeftError, TrainingError, WorkerLostError, first_line_of
from autopeft.executors import EXECUTORS
from autopeft.finished.best import write_best, write_plans
from autopeft.finished.refit import kept_refit, refit, refit_cost
from autopeft.report.cost import search_cost
from autopeft.report.part_words import part_words
from autopeft.report.progress import Lines, LivePage, live_page
from autopeft.report.trackers import log_plans
from autopeft.setup.build import Prepared
from autopeft.setup.look import NAMED, InMemory
from autopeft.setup.opening import open_run
from autopeft.setup.resuming import begin
from autopeft.setup.scoring import logged_scores
from autopeft.setup.search_facts import environment, setting_of
from autopeft.setup.search_problem import SHOWN_SCORES, rate_ranges, search_problem
from autopeft.setup.workers import start_workers
from autopeft.store import RunDir, claimed_folder
from autopeft.store.state import logged_measurements, record, write_state
from autopeft.store.study_file import study_file
from autopeft.train import watched
from autopeft.types import Outcome, RunSpec, SearchResult, SearchSoFar, resume_command

_NAME_LENGTH = 50  # characters of a dataset in the name of a folder, at most; heuristic

log = logging.getLogger(__name__)


def run_search(
    spec: RunSpec,
    *,
    resume: bool = False,
    progress: Lines,
    memory: InMemory = NAMED,
    confirm: Callable[[SearchTime], None] = lambda time: None,
) -> tuple[SearchResult, Path]:
    """Search and write the run directory; returns the result and the directory's path.

    Args:
        spec: The settings. If neither model nor data is named, the demo's settings replace all others.
        resume: Continue the run in `spec.output.out` with its settings (see `resumed`).
        progress: Shows the progress.
        memory: Model and data that are objects; the caller wraps the model in `model.restoring`.
        confirm: Called with the predicted time before a new search begins; what it raises keeps it from that.
    """
    started = time.monotonic()

    def clock() -> float:
        return time.monotonic() - started

    with _folder(spec) as out, open_run(spec, resume=resume, out=out, memory=memory) as opened:
        run = RunDir(out)  # locked by `open_run`
        if not resume and (predicted := search_time(opened.prepared, search_problem(opened), so_far=clock())):
            progress.note(f"time    {predicted}")
            confirm(predicted)
        spec = opened.prepared.spec
        state = begin(run, opened.prepared, requested=opened.requested, user_plan=opened.user_plan)
        prepared = replace(opened.prepared, decisions=state.decisions)
        load_seconds = clock()
        progress.phase("sensitivity", 0)
        if state.scores is None:  # a resumed run keeps its scores, so that ranks stay
            scores = logged_scores(prepared, (spec.search.score, *SHOWN_SCORES))
            state = replace(state, scores=scores, scoring_seconds=clock() - load_seconds)
        run.write_spec(spec)  # from here on the folder is a run, which can be resumed
        write_state(run, state)
        problem = search_problem(opened, state.scores or ())
        so_far = SearchSoFar(
            spec=spec,
            setting=setting_of(prepared, rate_ranges(problem)),
            targets=prepared.base.chosen,
            scores=state.scores or (),
            environment=environment(prepared.base, spec.execution),  # before the GPU is left to workers
        )
        with _naming_the_resume_command(spec, run.path):
            with live_page(run, so_far, progress) as page:
                outcome = _outcome(run, prepared, problem, page=page, clock=clock)
                cost = search_cost(
                    outcome,
                    paid=list(dict.fromkeys([*run.measurements.load(), *outcome.measurements])),
                    scoring_seconds=state.scoring_seconds,
                    load_seconds=load_seconds,
                )
                result = SearchResult(**(vars(so_far) | vars(outcome)), cost=cost)
                _write(run, prepared, result)
            result = _refitted(run, prepared, problem, result, clock=clock, progress=progress)
            if result.refit is not None:
                _write(run, prepared, result)
        log_plans(run, result)
        return result, run.path


def _outcome(
    run: RunDir, prepared: Prepared, problem: SearchProblem, *, page: LivePage, clock: Callable[[], float]
) -> Outcome:
    """Run the search on the workers; its study is `study.sqlite`, and `page` shows its progress."""
    spec = prepared.spec
    executor = EXECUTORS[spec.execution.executor]
    try:
        driver = Driver(
            executor=executor,
            measure_one=start_workers(executor, run, prepared),
            progress=page,
            problem=problem,
            earlier=logged_measurements(run),
            record=lambda measurement: record(run, measurement),
            clock=clock,
            max_seconds=spec.search.max_time_seconds or math.inf,
            max_cost=spec.search.max_cost or math.inf,
        )
        page.watch(driver)
        with study_file(run.path / "study.sqlite") as storage, watched(page.step):
            study = optuna.create_study(storage=storage, study_name=engine.STUDY)
            return driver.run(engine.search(problem, study, driver))
    finally:
        executor.shutdown()


def _refitted(
    run: RunDir,
    prepared: Prepared,
    problem: SearchProblem,
    result: SearchResult,
    *,
    clock: Callable[[], float],
    progress: Lines,
) -> SearchResult:
    """Train the best plan on all rows, unless settings, rows or limits rule it out, and add its cost."""
    share, cost, search = refit_cost(prepared), result.cost, prepared.spec.search
    one_run, in_full_runs = cost.full_run_seconds, cost.total_full_runs
    if not share or not result.best.learning_rate or one_run is None or in_full_runs is None:
        return result
    refitted = kept_refit(run, result)
    if refitted is None:
        is_late = clock() + share * one_run > (search.max_time_seconds or math.inf)
        if is_late or in_full_runs + share > (search.max_cost or math.inf):
            log.warning("The best plan is not trained on all rows; raise --max-time or --max-cost for that.")
            return result
        progress.phase("refit on all rows", 1, seconds_left=share * one_run)
        try:
            refitted = refit(run, prepared, problem, result)
        except (AutopeftError, OSError) as error:  # the answer is on the disk
            log.warning("The best plan was not trained on all rows: %s", first_line_of(error))
    if refitted is None:
        return result
    seconds = cost.total_seconds + refitted.seconds
    cost = replace(
        cost, refit_seconds=refitted.seconds, total_seconds=seconds, total_full_runs=seconds / one_run
    )
    return replace(result, refit=refitted, cost=cost)


def _write(run: RunDir, prepared: Prepared, result: SearchResult) -> None:
    """Write the answer: the finished adapter, plans, result and report."""
    run.forget_under_way(m for m in result.measurements if m.status.is_of_machine)
    write_best(run, prepared, result)
    write_plans(run, prepared, result)
    run.save_result(result)
    report.write(result, run.path, words=part_words(result))


def _folder(spec: RunSpec) -> AbstractContextManager[Path]:
    """Choose the folder that the user named, or a new one named after data and time."""
    if spec.output.out is not None:
        return nullcontext(Path(spec.output.out))
    data_name = Path(spec.data.source or "demo").stem.strip("<>").replace(" ", "-").replace(":", "-")
    return claimed_folder(Path("reports") / f"{data_name[:_NAME_LENGTH]}-{datetime.now():%Y%m%d-%H%M%S}")


@contextmanager
def _naming_the_resume_command(spec: RunSpec, out: Path) -> Iterator[None]:
    """Log the command that resumes a search if a signal or an error ends the context."""
    try:
        yield
    except (TrainingError, WorkerLostError):  # which say what to do
        raise
    except BaseException:
        log.warning("What was measured is kept; resume with: %s", resume_command(spec, out))
        raise

"""`tune`: train the trials of a study with a function or a command of the user, and write the answer."""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace

from autopeft import model, report
from autopeft.client import Score, Trial
from autopeft.engine import Batch
from autopeft.errors import DISK_FULL, RunDirError, TrainingError, first_line_of
from autopeft.finished.training_notes import document_without_head_rate, training_json
from autopeft.model import is_out_of_memory
from autopeft.report.cost import search_cost
from autopeft.report.part_words import part_words
from autopeft.report.write_card import write_card
from autopeft.setup.search_problem import rate_ranges
from autopeft.store import TRAINING, replaced_folder, write_plan, write_text
from autopeft.store.study_file import study_file
from autopeft.trials.study import Study
from autopeft.trials.trial_folders import weight_shapes
from autopeft.types import (
    VERSION,
    Measurement,
    Outcome,
    SearchFacts,
    SearchResult,
    SplitSizes,
    Status,
    quoted,
)

_PAUSE_SECONDS = 2.0  # between two calls of `ask` while other processes have all trials; heuristic

log = logging.getLogger(__name__)


def tune(
    train: Callable[[Trial], Score | float], study: Study, *, deadline_seconds: float = math.inf
) -> SearchResult:
    """Give each trial of a study to a training function until the study has its answer; write the answer.

    An error of the function is logged as a failed trial, and the search continues; only a full disk stops it.
    Several processes may call this on one folder; they share the trials. After `deadline_seconds` a trial of
    another process is taken over. A signal stops the search; the next call of `tune` resumes it.

    Raises:
        TrainingError: No baseline could be trained.
    """
    is_waiting = False
    while not study.is_finished:
        trial = study.ask(deadline_seconds=deadline_seconds)
        if trial is None:
            if not is_waiting:
                log.info(
                    "Other processes have all trials that are needed now; waiting for them. If one has died "
                    "on another machine, stop and pass --trial-time (deadline_seconds)."
                )
            is_waiting = True
            time.sleep(_PAUSE_SECONDS)
            continue
        is_waiting = False
        log.info("Trial %d: %s, %d steps, on %s", trial.number, trial.words, trial.steps, trial.split)
        try:
            score = train(trial)
            study.tell(trial, score)
            log.info("Trial %d: %g", trial.number, Score.given(score).value)
        except Exception as error:  # a failed trial is a value
            # Libraries that write files wrap a full disk in errors of their own; the system's words remain.
            if any(os.strerror(number) in str(error) for number in DISK_FULL):
                study.give_back(trial)
                raise RunDirError(
                    f"{study.path}: {first_line_of(error)}. Free space, and run the same command again."
                ) from error
            is_ours = isinstance(error, TrainingError)
            reason = first_line_of(error) if is_ours else f"{type(error).__name__}: {first_line_of(error)}"
            log.warning("Trial %d failed: %s", trial.number, reason)
            log.debug("Trial failed", exc_info=True)
            study.fail(trial, reason, status=Status.OUT_OF_MEMORY if is_out_of_memory(error) else Status.FAIL)
        except BaseException:
            study.give_back(trial)
            log.warning("Stopped; the same command with --out %s resumes the study.", quoted(str(study.path)))
            raise
    return finish(study)


def finish(study: Study) -> SearchResult:
    """Write the best adapter, its plan and the report of a finished study.

    Raises:
        TrainingError: The study is not finished, or can have no answer.
    """
    with study.lock, study_file(study.path / "study.sqlite") as storage:
        problem, outcome = study.replay(storage)
        if isinstance(outcome, Batch):
            raise TrainingError("The study is not finished; train the trials that ask returns.")
        measured = tuple(  # the search did not know the number of evaluated rows
            replace(m, fidelity=replace(m.fidelity, eval_examples=max(1, len(m.example_scores))))
            for m in outcome.measurements
        )
        full = next(m for m in measured if m.plan == outcome.best and m.fidelity.split == "confirm")
        facts = replace(_facts(study, outcome, full), learning_rate_ranges=rate_ranges(problem))
        result = SearchResult(
            spec=problem.spec,
            setting=facts,
            targets=study.base.chosen,
            scores=(),
            cost=search_cost(outcome, paid=study.run.measurements.load()),
            environment={"autopeft": VERSION},
            **vars(replace(outcome, measurements=measured)),
        )
        _write_best(study, result, full)
        study.run.save_result(result)
        report.write(result, study.path, words=part_words(result))
        return result


def _facts(study: Study, outcome: Outcome, full: Measurement) -> SearchFacts:
    """Collect what is known of rows and head, which only the trainer saw, from its scores and adapter."""
    base, metric = study.base, study.metric
    shapes = weight_shapes(study.trials.adapter(full.plan, full.fidelity.seed))
    in_head = tuple(f"{name}." for name in base.head_names)
    head = {name: shape for name, shape in shapes.items() if name.startswith(in_head)}
    ours = {name: [*weight.shape] for name, weight in base.module.named_parameters()}
    n_labels = next((shape[0] for name, shape in head.items() if shape != ours.get(name, shape)), 0)
    n_rows = {m.fidelity.split: len(m.example_scores) for m in outcome.measurements if m.example_scores}
    return SearchFacts(
        base_model=base.name,
        base_model_source=model.resolve(study.spec.model)[0],
        model_type=base.model_type,
        auto_class=type(base.module).__name__,
        data="rows of your trainer",
        task=study.spec.task.name,
        metric=metric.name,
        greater_is_better=metric.greater_is_better,
        metric_is_share=metric.is_share,
        metric_label=metric.label,
        budget=study.budget,
        head_params=sum(map(math.prod, head.values())),
        label_names=tuple(f"LABEL_{index}" for index in range(n_labels)),
        splits=SplitSizes(
            train=0,
            search=n_rows.get("search", 0),
            confirm=n_rows.get("confirm", 0),
            test=n_rows.get("test", 0),
        ),
        full_run_steps=full.fidelity.train_steps,
    )


def _write_best(study: Study, result: SearchResult, full: Measurement) -> None:
    """Write the finished adapter, its plan and a trial to train it again into `best/`."""
    adapter = study.trials.adapter(full.plan, full.fidelity.seed)
    document = document_without_head_rate(study.spec, study.base, full.plan)
    trial = json.loads((adapter.parent / "trial.json").read_text(encoding="utf-8"))
    places = {"config": "adapters", "folder": "retrained", "path": "."}
    with replaced_folder(study.run.best) as fresh:
        write_plan(fresh / "plan.yaml", document)
        shutil.copytree(adapter.parent / "config", fresh / "adapters")
        write_text(fresh / "trial.json", json.dumps(trial | places, indent=2) + "\n")
        weights = shutil.copytree(adapter, fresh / "weights")
        write_text(weights / TRAINING, training_json(full, {}))
        write_card(weights, result)

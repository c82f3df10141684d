"""A study: a search whose trials somebody else trains, in a folder that processes may share.

The folder holds everything: the settings, the trials that were given out, and the log of their scores. Each
`ask` replays the search over the log; the first measurement that is missing is the next trial. So a process
may end at any moment.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import filelock
import optuna
from optuna.storages import BaseStorage
from peft import PeftConfig
from pydantic import TypeAdapter, ValidationError

from autopeft import engine, model
from autopeft.adapters import compile_plan
from autopeft.client import Score, Trial
from autopeft.engine import Batch, Key, Request, SearchProblem
from autopeft.errors import RunDirError, SpecError, TrainingError
from autopeft.plugins import discover
from autopeft.setup.feasible import fit_to_budget, of_one_config, requested_space, without_scores
from autopeft.setup.look import methods_for
from autopeft.setup.resources import budget_of
from autopeft.space import Choices
from autopeft.store import (
    RunDir,
    by_dotted_name,
    claimed_folder,
    faults_of,
    read_record,
    resolve_settings,
    write_record,
)
from autopeft.store.study_file import errors_alone
from autopeft.tasks._shared.token_metrics import TOKEN_METRICS
from autopeft.train.lengths import Lengths
from autopeft.trials.trial_folders import TrialFolders, check_adapter, require_sound
from autopeft.types import (
    OWN_TRAINER,
    VERSION,
    Fidelity,
    Measurement,
    MetricFacts,
    OptionValue,
    Outcome,
    Plan,
    Status,
    digest_of,
    quoted,
    to_json,
    with_setting,
)

_SEEDS_WITHOUT_ROWS = 3  # full runs of each finalist if the trainer gives one number a run
_MOST_AT_ONCE = 64  # trials that may be given out at the same time; the list of plans is shorter

log = logging.getLogger(__name__)


class _Unlimited:
    """Neither time nor cost limits the trials of a user's trainer, which go out all at once."""

    n_at_once = _MOST_AT_ONCE

    def covers(self, requests: Sequence[Request], needed: Sequence[Fidelity] = ()) -> bool:
        """Return True."""
        return True


class Study:
    """A search over trials that somebody else trains; `path` is its folder."""

    def __init__(
        self,
        *,
        full_steps: int,
        search: Mapping[str, Sequence[OptionValue]] | None = None,
        metric: str = "score",
        lower_is_better: bool = False,
        test: bool = False,
        auto_class: str | None = None,
        **settings: Any,
    ) -> None:
        """Begin a study in a folder, or resume the one that is there; its settings must be the same.

        Args:
            full_steps: Optimizer steps of a full run.
            search: Choices of your trainer, such as `{"packing": [True, False]}`. The baseline has the first
                value of each; `trial.choices` holds those of a trial.
            metric: What the scores are. Of a metric that autopeft knows (accuracy, loss …) direction and
                range are known too, and shares are shown in percent.
            lower_is_better: Whether a lower score is better; only read for a metric not known to autopeft.
            test: Whether to ask for one evaluation on rows of a test split at the end.
            auto_class: The class of transformers whose modules the trainer adapts, such as
                `AutoModelForCausalLM`; None takes the one that the model's config names.
            **settings: Settings of a search by the names of their flags: model, budget (such as `r16`),
                effort, methods, seeds, trials, seed, margin, space, and `out` for the folder …
        """
        flags = by_dotted_name(settings) | {"task.max_steps": full_steps, "data.source": OWN_TRAINER}
        self.spec = resolve_settings(flags=flags)
        if self.spec.search.baseline is not None:
            raise SpecError("baseline is for search alone, not for a study; leave it out.")
        known: Mapping[str, MetricFacts] = TOKEN_METRICS | dict(discover("autopeft.metrics"))
        own_metric = MetricFacts(name=metric, greater_is_better=not lower_is_better)
        self.metric = known.get(metric, own_metric)
        if metric not in known and not lower_is_better:
            log.info("A higher %s counts as better; pass lower_is_better (--lower-is-better) if not.", metric)
        self._auto_class, self._is_tested, self._full_steps = auto_class, test, full_steps
        requested = without_scores(requested_space(self.spec))
        with model.quiet_libraries():
            self.base = model.load_skeleton(self.spec.model, auto_class=auto_class)
        tasks = {task.peft_task_type: name for name, task in discover("autopeft.tasks").items()}
        if kind := model.task_type_of(self.base.module):
            self.spec = with_setting(self.spec, "task.name", tasks.get(kind, self.spec.task.name))
        self.methods = methods_for(self.base)
        self.budget = budget_of(self.spec, self.base)
        feasible, context = fit_to_budget(self.spec, self.base, requested)
        try:
            choices = TypeAdapter(Choices).validate_python(dict(search or {}))
        except ValidationError as error:
            fault, *_ = (" ".join(each) for each in faults_of(error))
            raise SpecError(f"A choice of the trainer cannot be searched: {fault}.") from error
        self._context = replace(context, choices=choices)
        self._space = of_one_config(feasible, self._context)
        if self.spec.output.out is None:
            with claimed_folder(Path("reports") / f"tune-{datetime.now():%Y%m%d-%H%M%S}") as folder:
                self._open(folder)
            shown = quoted(str(folder))
            log.info("The same command with --out %s resumes this study, or shares its work.", shown)
        else:
            self._open(Path(self.spec.output.out))
        # Failures by the machine's fault, such as memory that ran out, are tried again in this process.
        self._retried = {m for m in self.run.measurements.load() if m.status.is_of_machine}

    def _open(self, path: Path) -> None:
        """Write the facts of a new study, or compare them with those of the study in the folder."""
        self.path, self.run, self.trials = path, RunDir(path), TrialFolders(path / "trials")
        facts = {
            "autopeft": VERSION,
            "metric": self.metric.name,
            "greater_is_better": self.metric.greater_is_better,
            "auto_class": self._auto_class,
            "is_tested": self._is_tested,
            "choices": {name: list(values) for name, values in self._context.choices.items()},
            "targets": digest_of([target.name for target in self.base.chosen]),
            **{topic: value for topic, value in to_json(self.spec).items() if topic != "output"},
        }
        facts_path = self.run.state / "study.json"
        if not path.is_dir():
            RunDir.check(path)  # a file, or a folder that cannot be made
        path.mkdir(parents=True, exist_ok=True)
        self.lock = filelock.FileLock(path / ".lock")
        with self.lock:
            if not facts_path.is_file():
                RunDir.check(path)
                write_record(facts_path, facts)
            begun_with = read_record(facts_path, dict[str, Any], remedy="pass another --out")
        if differing := sorted(name for name, value in facts.items() if begun_with.get(name) != value):
            raise RunDirError(
                f"{path} holds a study with another {' and '.join(differing)}; pass what it was begun "
                "with, or another --out."
            )
        self.run.write_spec(self.spec)

    @property
    def is_finished(self) -> bool:
        """Whether the search has its answer; raises TrainingError if no baseline could be trained."""
        return not self._missing()

    def ask(self, *, deadline_seconds: float = math.inf) -> Trial | None:
        """Take the next trial; None if the search is finished, or all trials that it needs now are given out.

        A trial is given out again if its process has ended on this machine, or after the deadline. Raises
        TrainingError if no baseline could be trained.
        """
        with self.lock:
            claims = self.trials.claims()
            for request in self._missing():
                claim = claims.get(request.key)
                if claim is None or not claim.holds(deadline_seconds):
                    return self.trials.give(
                        *request.key,
                        config=self._config(request.plan),
                        words=str(request.arm),
                        full_steps=self._full_steps,
                    )
        return None

    def give_back(self, trial: Trial) -> None:
        """Let another process have a trial that this one will not finish, unless its score is logged."""
        with self.lock:
            claim = self.trials.claim(trial)
            if claim is None or (claim.plan, claim.fidelity) not in self._measured():
                self.trials.give_back(trial)

    def tell(self, trial: Trial, score: Score | float) -> None:
        """Log the score of a trial; a score or loss that is not finite is logged as a diverged trial.

        Raises TrainingError, and logs nothing, for another number of rows or an adapter of another size.
        """
        try:
            score = Score.given(score)
        except ValueError as error:
            raise TrainingError(str(error)) from error
        metric = self.metric
        # Used as the loss if the trainer does not return one: the error rate of a share.
        loss_by_metric = (-score.value if metric.greater_is_better else score.value) + float(metric.is_share)
        loss = loss_by_metric if score.loss is None else score.loss
        if trial.has_diverged or not (math.isfinite(score.value) and math.isfinite(loss)):
            self.fail(trial, "diverged: the score or the loss is not finite", status=Status.DIVERGED)
            return
        finished = [m for m in self._measured().values() if m.status is Status.COMPLETE]
        lengths = [len(m.example_scores) for m in finished if m.fidelity.split == trial.split]
        n_rows = lengths[0] if lengths else None
        require_sound(score, n_rows=0 if n_rows == 1 else n_rows, span=metric.score_span)
        claim = self.trials.claim(trial)
        if claim is not None and trial.split == "confirm":
            check_adapter(trial.folder, claim.plan)
        example_scores = tuple(map(float, score.per_example)) or (score.value,)
        self._keep(trial, Status.COMPLETE, metric=score.value, loss=loss, example_scores=example_scores)

    def fail(self, trial: Trial, reason: str, *, status: Status = Status.FAIL) -> None:
        """Log that a trial failed; `reason` is a phrase without a full stop."""
        self._keep(trial, status, error=reason)

    def _keep(self, trial: Trial, status: Status, **facts: Any) -> None:
        with self.lock:
            claim, is_test = self.trials.claim(trial), trial.split == "test"
            if claim is None:
                log.warning("Trial %d came back after its deadline, and is not counted.", trial.number)
                return
            seconds = time.time() - claim.at
            measurement = Measurement(
                plan=claim.plan,
                fidelity=claim.fidelity,
                status=status,
                train_seconds=0.0 if is_test else seconds,
                eval_seconds=seconds if is_test else 0.0,
                trained_steps=trial.steps,
                **facts,
            )
            self.run.measurements.append(measurement)
            if status.is_of_machine:
                self.trials.give_back(trial)  # a later process tries it again

    def replay(self, storage: BaseStorage | None = None) -> tuple[SearchProblem, Outcome | Batch]:
        """Run the search over the log; return its outcome, or the batch that it needs next."""
        measured = self._measured()
        problem = self._problem(measured)

        def logged(batch: Batch) -> list[Measurement] | None:
            runs = [measured[request.key] for request in batch.requests if request.key in measured]
            return runs if len(runs) == len(batch.requests) else None

        with errors_alone("optuna"):
            study = optuna.create_study(storage=storage, study_name=engine.STUDY)
            return problem, engine.drive(engine.search(problem, study, _Unlimited()), logged)

    def _missing(self) -> list[Request]:
        """List the runs that the search needs next and the log does not have; empty if it is finished."""
        _, batch = self.replay()
        measured = self._measured()
        requests = batch.requests if isinstance(batch, Batch) else ()
        return [request for request in requests if request.key not in measured]

    def _measured(self) -> dict[Key, Measurement]:
        return {(m.plan, m.fidelity): m for m in self.run.measurements.load() if m not in self._retried}

    def _problem(self, measured: Mapping[Key, Measurement]) -> SearchProblem:
        """Make the problem for the engine: one seed if the trainer scores rows, three if it does not."""
        spec = self.spec
        has_rows = all(len(m.example_scores) > 1 for m in measured.values() if m.status is Status.COMPLETE)
        if not has_rows and (spec.search.seeds or 1) == 1:
            spec = with_setting(spec, "search.seeds", _SEEDS_WITHOUT_ROWS)
        writes_text = model.task_type_of(self.base.module) in ("CAUSAL_LM", "SEQ_2_SEQ_LM")
        return SearchProblem(
            spec=spec,
            space=self._space,
            context=self._context,
            family="language" if writes_text else "classification",
            lengths=Lengths(
                full_steps=self._full_steps,
                batch_size=1,
                n_search=1,
                n_confirm=1,
                n_test=int(self._is_tested),
                goes_on=False,
            ),
            metric=self.metric,
            has_head=False,  # the user's trainer has one, with rates of its own
        )

    def _config(self, plan: Plan) -> PeftConfig:
        module = self.base.module
        (config,) = model.for_task(
            compile_plan(plan, self.methods).configs,
            module,
            task_type=model.task_type_of(module),
            head_names=self.base.head_names,
        )
        config.base_model_name_or_path = self.spec.model.id
        return config

"""The study that a run leaves holds each trial's losses by rung, and which trials were pruned."""

from __future__ import annotations

import csv
from collections import defaultdict

import optuna
from optuna.trial import TrialState
from typer.testing import CliRunner

from autopeft.cli.app import app


def test_study_of_a_run_has_the_losses_of_trials_csv_by_steps(model_dir, data_dir, tmp_path):
    flags = "--budget 5% --max-steps 12 --trials 8 --confirm none --quiet".split()
    paths = ["--model", str(model_dir), "--data", str(data_dir), "--out", str(tmp_path / "run")]
    done = CliRunner().invoke(app, ["search", *flags, *paths])
    assert done.exit_code == 0, done.output
    losses = defaultdict(dict)
    with (tmp_path / "run/trials.csv").open(encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            if row["split"] == "search" and row["loss"] and row["seed"] == "0":
                losses[row["plan_id"]].setdefault(int(row["train_steps"]), float(row["loss"]))
    last = max(steps for by_steps in losses.values() for steps in by_steps)
    study = optuna.load_study(study_name=None, storage=f"sqlite:///{tmp_path / 'run/study.sqlite'}")
    assert [trial.number for trial in study.trials] == list(range(len(study.trials)))
    states = defaultdict(int)
    for trial in study.trials:
        expected = losses[trial.user_attrs["plan"]]
        assert trial.intermediate_values == expected
        assert trial.state is (TrialState.COMPLETE if last in expected else TrialState.PRUNED)
        assert trial.value == expected[max(expected)]
        states[trial.state] += 1
    assert len(states) == 2, states
    assert study.best_value == min(by_steps[last] for by_steps in losses.values() if last in by_steps)

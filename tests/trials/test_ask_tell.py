"""A study in a folder: asked for trials, stopped, resumed and shared."""

from __future__ import annotations

import json
import threading
import time

import psutil
import pytest
from toys.trainers import good_trainer, rows_without_seconds, score_of, write_adapter

from autopeft.client import Score, Trial
from autopeft.commands.tune import finish, tune
from autopeft.errors import RunDirError, TrainingError
from autopeft.store import read_plan
from autopeft.trials.study import Study
from autopeft.trials.trial_folders import check_adapter


@pytest.fixture
def make_study(tiny_llama, tmp_path):
    """A function: what differs from the usual settings -> a study in the folder `study`."""

    def make(**settings):
        usual = {"budget": "r4", "full_steps": 20, "metric": "accuracy", "out": tmp_path / "study"}
        return Study(model=str(tiny_llama), **(usual | settings))

    return make


@pytest.fixture(scope="module")
def usual_rows(tiny_llama, tmp_path_factory):
    """The trials.csv of an undisturbed study, without seconds."""
    out = tmp_path_factory.mktemp("usual") / "study"
    study = Study(model=str(tiny_llama), budget="r4", full_steps=20, metric="accuracy", out=out)
    tune(good_trainer(tiny_llama), study)
    return rows_without_seconds(out / "trials.csv")


def train_all(study, model):
    """Train all trials of a study."""
    return tune(good_trainer(model), study)


def test_best_plan_of_a_known_order_is_returned_with_its_adapter(make_study, tiny_llama):
    study = make_study(test=True, trials=5)
    result = train_all(study, tiny_llama)
    trained = {m.plan: m.plan.learning_rate for m in result.measurements}
    assert result.best.learning_rate == max(trained.values())  # by which the toy scores
    assert result.verdict.label == "better"
    (full,) = [m for m in result.measurements if m.plan == result.best and m.fidelity.split == "confirm"]
    folders = [path for path in (study.path / "trials").iterdir() if (path / "adapter").is_dir()]
    finished = {path: (path / "adapter/adapter_model.safetensors").read_bytes() for path in folders}
    assert (study.path / "best/weights/adapter_model.safetensors").read_bytes() in finished.values()
    assert full.metric == pytest.approx(sum(full.example_scores) / len(full.example_scores))
    assert len([m for m in result.measurements if m.fidelity.split == "test"]) == 2  # best and baseline


def test_one_number_a_run_takes_three_seeds(make_study, tiny_llama):
    train = good_trainer(tiny_llama)
    study = make_study(trials=5)
    result = tune(lambda trial: train(trial).value, study)
    full = [m for m in result.measurements if m.fidelity.split == "confirm"]
    assert sorted(m.fidelity.seed for m in full) == [0, 0, 1, 1, 2, 2]


def test_a_study_killed_as_it_began_is_opened_again(make_study, tmp_path):
    study = make_study()
    (study.path / "run.yaml").unlink()  # written last
    (study.path / "trials" / "0_notes").mkdir(parents=True)
    assert make_study().ask().number == 0
    assert (study.path / "run.yaml").is_file()


def test_choices_of_the_trainer_are_searched_and_the_baseline_has_the_first_ones(make_study, tiny_llama):
    choices = {"packing": [True, False], "num_train_epochs": [1, 2]}
    study = make_study(search=choices, trials=12)
    train = good_trainer(tiny_llama)
    trials = []

    def without_packing(trial):
        trials.append(trial)
        train(trial)
        rows = [float(row < (20 if trial.choices["packing"] else 36)) for row in range(40)]
        return Score(value=sum(rows) / 40, per_example=rows)

    result = tune(without_packing, study)
    assert {tuple(trial.choices.values()) for trial in trials} >= {(True, 1), (False, 1), (True, 2)}
    assert dict(result.baseline.choices) == {"packing": True, "num_train_epochs": 1}
    assert dict(result.best.choices)["packing"] is False
    assert Trial.load(trials[-1].path / "trial.json").choices == trials[-1].choices
    assert "packing False" in (study.path / "report.md").read_text()
    saved = read_plan(study.path)
    assert (saved.plan, saved.plan.plan_id) == (result.best, result.best.plan_id)
    with pytest.raises(RunDirError, match="another choices"):
        make_study(search={"packing": [True, False]}, trials=12)


def test_best_plan_is_trained_again_from_its_trial_with_its_choices(make_study, tiny_llama):
    def train(trial):
        write_adapter(trial, tiny_llama)
        rows = [float(row < (20 if trial.choices["packing"] else 36)) for row in range(40)]
        return Score(value=sum(rows) / 40, per_example=rows)

    study = make_study(search={"packing": [True, False]})
    result = tune(train, study)
    again = Trial.load(study.path / "best" / "trial.json")
    assert (again.choices, again.steps) == ({"packing": False}, 20)
    assert train(again).value == 36 / 40
    check_adapter(again.folder, result.best)
    assert again.folder == study.path / "best" / "retrained"


def test_stopped_study_is_resumed_to_the_same_answer(make_study, tiny_llama, usual_rows):
    stopped = make_study()
    for _ in range(3):
        trial = stopped.ask()
        write_adapter(trial, tiny_llama)
        stopped.tell(trial, score_of(trial))
    again = make_study()
    again.give_back(again.ask())  # a process that was interrupted
    trained = []
    train = good_trainer(tiny_llama)
    tune(lambda trial: trained.append(trial.number) or train(trial), again)
    assert len(trained) == len(usual_rows) - 3
    assert rows_without_seconds(again.path / "trials.csv") == usual_rows


def test_trial_whose_score_was_logged_as_the_signal_came_keeps_its_adapter(make_study, tiny_llama):
    study, train = make_study(effort="quick"), good_trainer(tiny_llama)
    for trial in iter(study.ask, None):
        study.tell(trial, train(trial))
        study.give_back(trial)  # as `tune` does at a signal
    assert finish(study).best.adapters


def test_lost_trial_comes_back_after_the_deadline(make_study):
    study = make_study()
    lost = study.ask()
    assert study.ask(deadline_seconds=60).learning_rate != lost.learning_rate
    time.sleep(0.02)
    again = study.ask(deadline_seconds=0.01)
    assert (again.learning_rate, again.peft_config) == (lost.learning_rate, lost.peft_config)
    assert again.folder != lost.folder  # its process may still write there
    study.tell(lost, score_of(lost))  # too late
    assert study.ask(deadline_seconds=0.0).learning_rate == lost.learning_rate


def test_trial_of_a_process_whose_number_a_later_one_has_comes_back(make_study):
    """As in a container that was killed and started again."""
    study = make_study()
    lost = study.ask()
    claim = lost.path / "claim.json"
    written = json.loads(claim.read_bytes())
    claim.write_text(json.dumps(written | {"at": psutil.Process().create_time() - 1}))
    assert study.ask().learning_rate == lost.learning_rate


def test_nothing_is_asked_while_all_that_is_needed_is_out(make_study):
    study = make_study(trials=5)
    trials = []
    while (trial := study.ask()) is not None:
        trials.append(trial)
    assert {trial.split for trial in trials} == {"search"} and not study.is_finished
    for trial in trials:
        study.tell(trial, score_of(trial))
    assert study.ask().split == "confirm"


def test_two_of_one_folder_share_the_work(make_study, tiny_llama, usual_rows):
    done = {0: [], 1: []}
    train = good_trainer(tiny_llama)

    def work(number):
        study = make_study()

        def slowly(trial):
            done[number].append(trial.number)
            time.sleep(0.2)
            return train(trial)

        results[number] = tune(slowly, study)

    results = {}
    threads = [threading.Thread(target=work, args=(number,)) for number in done]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(done[0] + done[1]) == list(range(len(usual_rows)))
    assert done[0] and done[1]
    assert results[0].best == results[1].best
    assert rows_without_seconds(make_study().path / "trials.csv") == usual_rows


def test_folder_with_another_study_is_refused_by_what_differs(make_study, tmp_path):
    make_study()
    with pytest.raises(RunDirError, match="another budget"):
        make_study(budget="r2")
    other = tmp_path / "other"
    other.mkdir()
    (other / "notes.txt").write_text("mine")
    with pytest.raises(RunDirError, match="other"):
        make_study(out=other)


def test_study_without_any_baseline_ends_in_a_sentence(make_study):
    def train(trial):
        raise ValueError("no such file: rows.csv")

    with pytest.raises(TrainingError, match=r"rows\.csv"):
        tune(train, make_study())

"""`tune` with bad trainers, as functions and as commands, and killed in the middle."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time

import peft
import psutil
import pytest
import torch
import transformers
from safetensors.torch import load_file
from toys.trainers import SCRIPT, cut, good_trainer, rows_without_seconds, score_of, write_adapter
from typer.testing import CliRunner

import autopeft
from autopeft.cli.app import app
from autopeft.client import Score
from autopeft.commands.push import push
from autopeft.commands.tune import tune
from autopeft.errors import RunDirError, SpecError, TrainingError
from autopeft.trials.study import Study
from autopeft.trials.trial_folders import command


def raises(trial):
    raise ValueError("rows.csv has no column text\nand more")


def ignores_steps(trial):
    for step in range(1000):
        trial.report(step, 0.1)


BAD_FUNCTIONS = {
    "raises": (raises, "ValueError: rows.csv has no column text"),
    "nothing": (lambda trial: None, "NoneType"),
    "steps": (ignores_steps, "trial.steps"),
    "memory": (lambda trial: bytearray(1 << 60), "MemoryError"),
}


def test_a_tuned_classifier_of_three_labels_loads_by_the_lines_of_its_card(model_dir, tmp_path, monkeypatch):
    """The skeleton of the base model has two labels; only the trained head has the right number."""
    kind = "AutoModelForSequenceClassification"

    def train(trial):
        model = getattr(transformers, kind).from_pretrained(model_dir, num_labels=3)
        trial.attach(model).save_pretrained(trial.folder)
        return score_of(trial)

    about = {"model": str(model_dir), "auto_class": kind, "budget": "r4", "full_steps": 20}
    tune(train, Study(**about, effort="quick", out=tmp_path / "study"))
    result = autopeft.load_result(tmp_path / "study")
    weights = load_file(result.path / "best/weights/adapter_model.safetensors")
    head = {name: weight for name, weight in weights.items() if "classifier" in name}
    assert result.setting.head_params == sum(map(torch.Tensor.numel, head.values()))
    assert (result.setting.task, result.load().config.num_labels) == ("text-classification", 3)
    card = (result.path / "best/weights/README.md").read_text()
    monkeypatch.chdir(result.path)
    names = {}
    exec(card.split("```python")[1].split("```")[0], names)
    loaded = peft.get_peft_model_state_dict(names["model"])
    assert all(torch.equal(loaded[name], weight) for name, weight in weights.items())
    assert "README.md" in push(result.path, "me/new", base_model="me/base", dry_run=True).files


def test_a_head_missing_from_a_masked_language_model_is_refused(model_dir, tmp_path):
    masked = transformers.AutoModelForMaskedLM.from_pretrained(model_dir)
    masked.save_pretrained(tmp_path / "masked")  # its config names BertForMaskedLM
    study = Study(model=str(tmp_path / "masked"), budget="r4", full_steps=20, out=tmp_path / "study")
    classifier = transformers.AutoModelForSequenceClassification.from_pretrained(model_dir, num_labels=3)
    trial = study.ask()
    with pytest.raises(ValueError, match="classifier"):
        trial.attach(classifier)
    assert trial.attach(masked)


def test_a_tuned_language_model_is_not_a_classifier_in_its_card(llama_with_weights, tmp_path):
    _, folder = llama_with_weights
    train = good_trainer(folder)
    about = {"model": str(folder), "budget": "r4", "full_steps": 20, "effort": "quick"}
    study = Study(**about, out=tmp_path / "study")
    assert tune(train, study).setting.task == "text-generation"
    assert type(autopeft.load_result(study.path).load()).__name__ == "PeftModelForCausalLM"
    assert "pipeline_tag: text-generation" in (study.path / "best/weights/README.md").read_text()


@pytest.mark.parametrize(("metric", "lower"), [("loss", False), ("wer", True)])
def test_the_lowest_score_is_the_best_of_a_known_metric_and_where_the_user_says_so(
    metric, lower, tiny_llama, tmp_path
):
    train = good_trainer(tiny_llama)

    def score(trial):
        train(trial)
        return Score(value=5.0 - trial.number, per_example=[5.0 - trial.number] * 40)

    about = {"model": str(tiny_llama), "budget": "r4", "full_steps": 20, "effort": "quick"}
    study = Study(**about, metric=metric, lower_is_better=lower, out=tmp_path / "study")
    result = tune(score, study)
    assert min(result.measurements, key=lambda m: m.metric).plan == result.best


@pytest.mark.parametrize("name", BAD_FUNCTIONS)
def test_bad_trial_of_a_function_is_one_sentence_and_the_search_continues(name, tiny_llama, tmp_path):
    bad, reason = BAD_FUNCTIONS[name]
    train = good_trainer(tiny_llama)
    about = {"model": str(tiny_llama), "budget": "r4", "full_steps": 20, "trials": 5}
    study = Study(**about, out=tmp_path / "study")
    result = tune(lambda trial: (bad if trial.number == 1 else train)(trial), study)
    errors = [m.error for m in result.measurements if m.error]
    assert len(errors) == 1 and reason in errors[0] and "\n" not in errors[0]
    assert len([m for m in result.measurements if m.fidelity.split == "confirm" and m.metric]) == 2


def test_time_of_a_trial_that_is_tried_again_counts_too(tiny_llama, tmp_path):
    about = {"model": str(tiny_llama), "budget": "r4", "full_steps": 20, "out": tmp_path / "study"}
    bad, train = BAD_FUNCTIONS["memory"][0], good_trainer(tiny_llama)
    first = tune(lambda trial: (bad if trial.number == 1 else train)(trial), Study(**about))
    (failed,) = [m for m in first.measurements if m.error]
    again = tune(train, Study(**about), deadline_seconds=0.0)
    used = sum(m.total_seconds for m in again.measurements)
    assert not any(m.error for m in again.measurements) and failed.total_seconds > 0
    assert again.cost.total_seconds >= used + failed.total_seconds


def test_challenger_with_a_wrong_adapter_is_left_out(tiny_llama, tmp_path):
    def train(trial):
        write_adapter(trial, tiny_llama)
        if trial.split == "confirm" and trial.peft_config.peft_type.value == "HIRA":
            cut(trial.folder / "adapter_model.safetensors")
        return score_of(trial)

    about = {"model": str(tiny_llama), "budget": "r4", "full_steps": 20, "trials": 5}
    study = Study(**about, out=tmp_path / "study")
    result = tune(train, study)
    assert result.best == result.baseline
    assert ["cannot be read" in m.error for m in result.measurements if m.error] == [True]


BAD_COMMANDS = {
    "exit": ("echo first; echo no GPU is left; exit 3", "exit code 3: no GPU is left"),
    "signal": ("kill -9 $$", "signal 9"),
    "nothing": ("true", "result.json"),
    "hang": ("sleep 60", "1 s"),
}


@pytest.fixture
def trial(tiny_llama, tmp_path):
    """A trial of a study."""
    return Study(model=str(tiny_llama), budget="r4", full_steps=20, out=tmp_path / "study").ask()


@pytest.mark.parametrize("name", BAD_COMMANDS)
def test_bad_command_is_one_sentence(name, trial):
    text, reason = BAD_COMMANDS[name]
    started = time.monotonic()
    with pytest.raises(TrainingError, match=reason) as failed:
        command(["sh", "-c", f": {{trial}} {{result}}; {text}"], max_seconds=1.0)(trial)
    assert len(str(failed.value).splitlines()) == 1
    assert time.monotonic() - started < 30


def is_running(pid):
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


@pytest.mark.parametrize("ends", [True, False])
def test_children_that_a_command_left_running_are_ended(ends, trial):
    worker = "sleep" if ends else "setsid sleep"  # torchrun gives its workers sessions of their own
    text = f'{worker} 100 & echo $! > "$2.pid"; printf \'{{"value": 0.5}}\' > "$2"'
    run = command(
        ["sh", "-c", text if ends else f"{text}; sleep 100", "sh", "{trial}", "{result}"], max_seconds=2
    )
    if ends:
        assert run(trial).value == 0.5
    else:
        with pytest.raises(TrainingError, match="2 s"):
            run(trial)
    pid, deadline = int((trial.path / "result.json.pid").read_text()), time.monotonic() + 5
    while is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_running(pid)


def test_command_without_places_for_its_files_is_refused():
    with pytest.raises(SpecError, match="result"):
        command(["python", "train.py"])


@pytest.fixture
def tune_command(tiny_llama, tmp_path):
    """A function: folder and seconds of a trial -> the arguments of `autopeft` to tune a quick script."""
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)

    def words(out, seconds=0.0):
        flags = ["--model", tiny_llama, "--budget", "r4", "--full-steps", "20", "--metric", "accuracy"]
        flags += ["--seeds", "1", "--margin", "0.01"]
        trainer = [sys.executable, "-S", script, "{trial}", "{result}", seconds]
        return [str(word) for word in ("tune", *flags, "--out", out, "--", *trainer)]

    return words


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="needs signals of POSIX")
def test_killed_tune_is_resumed_to_the_same_answer(tune_command, tmp_path):
    assert CliRunner().invoke(app, tune_command(tmp_path / "usual")).exit_code == 0
    words = [sys.executable, "-m", "autopeft", *tune_command(tmp_path / "killed", seconds=1)]
    process = subprocess.Popen(
        words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    log = tmp_path / "killed/trials/0002/trial.json"
    deadline = time.monotonic() + 120
    while not log.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed/trials.csv").exists()
    first = (tmp_path / "killed/trials/0000/result.json").stat().st_mtime_ns
    assert CliRunner().invoke(app, tune_command(tmp_path / "killed")).exit_code == 0
    assert (tmp_path / "killed/trials/0000/result.json").stat().st_mtime_ns == first  # was not made again
    both = [rows_without_seconds(tmp_path / name / "trials.csv") for name in ("usual", "killed")]
    assert both[0] == both[1]


def test_full_disk_is_not_a_failed_plan(tiny_llama, tmp_path):
    def train(trial):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    study = Study(model=str(tiny_llama), budget="r4", full_steps=20, out=tmp_path / "study")
    with pytest.raises(RunDirError, match="No space left on device"):
        tune(train, study)
    assert study.ask() is not None and not (study.path / "state/measurements.jsonl").exists()

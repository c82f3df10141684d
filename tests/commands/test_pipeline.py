"""A whole search on a tiny model and tiny data: its files, counts, and a fresh process that reads them."""

from __future__ import annotations

import csv
import json
import logging
import shutil
import subprocess
import sys

import optuna
import pytest
from toys.specs import run_spec

from autopeft import commands
from autopeft.commands.report import render
from autopeft.errors import RunDirError
from autopeft.report.progress import Lines
from autopeft.store import RunDir, read_plan
from autopeft.train import pausing

WEIGHTS = "adapter_model.safetensors"


def spec_for(model_dir, data_dir, out, **settings):
    """The list of the default space, four plans here, and four by Optuna; full runs of 30 steps."""
    usual = {"max_steps": 30, "batch_size": 8, "budget": "5%", "trials": 8, "sizes": 2, "seed": 3}
    return run_spec(model_dir, data_dir, out=out, **(usual | settings))


class WithStudy(Lines):
    """Fails if the study or the page in a run's folder does not have what the run has begun or measured."""

    def __init__(self, out):
        super().__init__()
        self.out = out

    def measured(self, *_, **__):
        study = optuna.load_study(study_name=None, storage=f"sqlite:///{self.out / 'study.sqlite'}")
        assert study.trials
        assert "nothing is judged yet" in (self.out / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def run(model_dir, data_dir, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "first"
    return commands.run_search(spec_for(model_dir, data_dir, out), progress=WithStudy(out))[1]


@pytest.fixture(scope="module")
def answer(run):
    return json.loads((run / "result.json").read_text(encoding="utf-8"))


def rows_of(run):
    with (run / "trials.csv").open(encoding="utf-8", newline="") as stream:
        return [
            {k: v for k, v in row.items() if not k.endswith("_seconds")} for row in csv.DictReader(stream)
        ]


def test_plan_is_within_the_budget_and_three_counts_are_one_integer(run, answer):
    of_plan = commands.count(run / "best" / "plan.yaml").trainable_params
    of_configs = commands.count(run / "best" / "adapters").trainable_params
    assert of_plan == of_configs == answer["best"]["trainable_params"]
    assert of_plan <= answer["budget"]["max_trainable_params"]
    (smaller,) = answer["sizes"]
    assert smaller["trainable_params"] <= answer["budget"]["max_trainable_params"] // 5


def test_study_opens_and_holds_one_finished_trial_per_proposal(run):
    study = optuna.load_study(study_name=None, storage=f"sqlite:///{run / 'study.sqlite'}")
    assert [trial.user_attrs["source"] for trial in study.trials] == ["list"] * 4 + ["sampler"] * 4
    assert all(trial.state.is_finished() for trial in study.trials)


def test_trials_csv_has_every_measurement_and_names_its_split(run, answer):
    rows = rows_of(run)
    splits = [row["split"] for row in rows]
    assert len(rows) == len(RunDir.open(run).measurements.load())
    assert set(splits) == {"search", "confirm", "test"} and splits.count("search") >= 8
    assert {row["train_steps"] for row in rows} == {"12", "30"} and {row["seed"] for row in rows} == {"3"}
    judged = {row["plan_id"]: float(row["metric"]) for row in rows if row["split"] == "confirm"}
    assert judged[answer["best"]["plan_id"]] == answer["best"]["metric_mean"]
    assert judged[answer["sizes"][0]["plan_id"]] == answer["sizes"][0]["metric_mean"]


FRESH = """
import json, sys
from peft import PeftConfig, PeftModel, get_peft_model
from transformers import AutoModelForSequenceClassification, AutoTokenizer
import csv, torch
run, data = sys.argv[1:]
config = PeftConfig.from_pretrained(f"{run}/best/adapters")
def base():
    return AutoModelForSequenceClassification.from_pretrained(config.base_model_name_or_path, num_labels=2)
attached = sum(p.numel() for p in get_peft_model(base(), config).parameters() if p.requires_grad)
tokenizer = AutoTokenizer.from_pretrained(f"{run}/best/judged")
model = PeftModel.from_pretrained(base(), f"{run}/best/judged").eval()
@torch.no_grad()
def accuracy(split):
    rows = list(csv.DictReader(open(f"{data}/{split}.csv")))
    names = sorted({row["label"] for row in rows})
    guesses = [names[model(**tokenizer(row["text"], return_tensors="pt")).logits.argmax()] for row in rows]
    return sum(guess == row["label"] for guess, row in zip(guesses, rows)) / len(rows)
print(json.dumps({"attached": attached, "confirm": accuracy("validation"), "test": accuracy("test")}))
"""


def test_plain_peft_loads_the_weights_and_scores_what_the_report_says(run, answer, data_dir):
    command = [sys.executable, "-c", FRESH, str(run), str(data_dir)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    fresh, best = json.loads(done.stdout.strip().splitlines()[-1]), answer["best"]
    assert fresh["attached"] - best["head_params"] == best["trainable_params"]
    assert (fresh["confirm"], fresh["test"]) == (best["metric_mean"], answer["test"]["best"]["metric_mean"])
    training = json.loads((run / "best/judged/training.json").read_text(encoding="utf-8"))
    assert (training["plan_id"], training["metric"]) == (best["plan_id"], best["metric_mean"])


PLANS = ("best/plan.yaml", "plans/baseline.yaml", "plans/challenger.yaml", "plans/1-of-5.yaml")


@pytest.mark.parametrize("name", PLANS)
def test_training_a_plan_gives_the_bytes_of_its_finished_weights(name, run, tmp_path):
    """The search went on from a short run; `train` makes every step."""
    plan = read_plan(run / name).plan
    trained = commands.train_plan(run / name, out=tmp_path / "adapter").measurement
    kept = run / "best/judged" if name == "best/plan.yaml" else RunDir.open(run).weights(plan, 3)
    assert (tmp_path / "adapter" / WEIGHTS).read_bytes() == (kept / WEIGHTS).read_bytes()
    (row,) = [r for r in rows_of(run) if r["plan_id"] == plan.digest and r["split"] == "confirm"]
    assert float(row["metric"]) == trained.metric and trained.trained_steps == 30
    assert row["trained_steps"] == "20"  # four fifths of the 12 steps of the short run were not made again


def test_weights_that_are_passed_on_alone_can_be_trained_again(run, data_dir, tmp_path):
    alone = shutil.copytree(run / "best/judged", tmp_path / "weights")
    commands.train_plan(alone / "plan.yaml", run_spec(data=data_dir), out=tmp_path / "adapter")
    assert (tmp_path / "adapter" / WEIGHTS).read_bytes() == (alone / WEIGHTS).read_bytes()
    with pytest.raises(RunDirError, match="not empty"):
        commands.train_plan(run, out=tmp_path / "adapter")


def without_seconds(content):
    """A part of result.json without what clocks said, and without the folder; R is seconds, too."""
    if isinstance(content, dict):
        told = {
            name: part
            for name, part in content.items()
            if "seconds" not in name and name not in ("cost", "out")
        }
        return {name: without_seconds(part) for name, part in told.items()}
    return [without_seconds(part) for part in content] if isinstance(content, list) else content


def test_same_seed_gives_the_same_answer_but_for_the_seconds(run, answer, model_dir, data_dir, tmp_path):
    _, again = commands.run_search(spec_for(model_dir, data_dir, tmp_path / "again"), progress=Lines())
    assert rows_of(again) == rows_of(run)
    assert without_seconds(json.loads((again / "result.json").read_text())) == without_seconds(answer)


def test_a_search_that_is_stopped_again_and_again_gives_the_same_answer(
    run, answer, model_dir, data_dir, tmp_path, monkeypatch
):
    """Stopped after every 31 steps, whose state is kept at every step."""
    monkeypatch.setattr(pausing, "_SECONDS", 0.0)
    monkeypatch.setattr(pausing, "_SHARE", 1e9)
    spec, n_stops, left = spec_for(model_dir, data_dir, tmp_path / "stopped"), 0, 0

    class Stops(Lines):
        def step(self, step, n_steps):
            nonlocal left
            left -= 1
            if not left:
                raise KeyboardInterrupt

    while True:
        left = 31
        try:
            _, path = commands.run_search(spec, resume=n_stops > 0, progress=Stops())
            break
        except KeyboardInterrupt:
            n_stops += 1
    assert n_stops > 5
    assert rows_of(path) == rows_of(run)
    assert without_seconds(json.loads((path / "result.json").read_text())) == without_seconds(answer)
    assert (path / "best/weights" / WEIGHTS).read_bytes() == (run / "best/weights" / WEIGHTS).read_bytes()
    assert not (path / "state/under_way").exists()


def test_a_finished_run_says_that_it_is_and_gives_its_result(run, tmp_path, caplog):
    out = shutil.copytree(run, tmp_path / "run")
    with caplog.at_level(logging.INFO):
        result, _ = commands.run_search(run_spec(out=out), resume=True, progress=Lines())
    assert result.verdict == RunDir.open(run).load_result().verdict
    assert rows_of(out) == rows_of(run)


def test_report_renders_again_to_the_same_text(run):
    names = ("report.html", "trials.csv", "result.json")
    before = [(run / name).read_text(encoding="utf-8") for name in names]
    render(run)
    assert [(run / name).read_text(encoding="utf-8") for name in names] == before


def test_budget_below_lora_is_searched_with_the_head_as_baseline(model_dir, data_dir, tmp_path):
    one_map = 2 * json.loads((model_dir / "config.json").read_text(encoding="utf-8"))["hidden_size"]
    spec = spec_for(model_dir, data_dir, tmp_path / "tiny", budget=str(one_map - 1))
    result, _ = commands.run_search(spec, progress=Lines())
    assert result.baseline.adapters == ()
    assert 0 <= result.best.trainable_params < one_map
    fitting = {"ia3", "road", "bitfit", "ln_tuning"}
    assert {a.method for p in result.proposals for a in p.plan.adapters} <= fitting


def test_preview_trains_and_writes_nothing_and_bounds_what_the_search_measures(
    run, model_dir, data_dir, tmp_path
):
    preview = commands.preview(spec_for(model_dir, data_dir, tmp_path / "none"))
    assert not (tmp_path / "none").exists()
    result = RunDir.open(run).load_result()
    assert (preview.trials, preview.short_steps, preview.setting.full_run_steps) == (8, 12, 30)
    assert list(preview.listed_plans) == [str(p.arm) for p in result.proposals if p.source == "list"]
    # A step is a unit, an evaluated example half a trained one; R is a full run of 8 rows a step.
    steps = sum(m.trained_steps for m in result.measurements)
    examples = sum(m.fidelity.eval_examples for m in result.measurements)
    full_run = 30 + 0.5 * 40 / 8
    assert 2 < (steps + 0.5 * examples / 8) / full_run <= preview.search_cost

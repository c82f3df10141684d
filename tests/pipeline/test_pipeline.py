"""A whole search on a tiny model and tiny data: its files, counts, and a fresh process that reads them."""

from __future__ import annotations

import csv
import json
import logging
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from toys.specs import run_spec

from autopeft import pipeline
from autopeft.cli.previews import preview_text
from autopeft.cli.progress import Silent
from autopeft.errors import RunDirError, SpecError
from autopeft.model import BaseModel
from autopeft.model.unchanged import digest_of
from autopeft.pipeline.fingerprint import facts_for_workers, loaded_facts
from autopeft.pipeline.prepare import prepare
from autopeft.pipeline.training import Trained
from autopeft.records import RunSpec
from autopeft.store import RunDir, read_plan

FILES = (
    "run.yaml study.sqlite sensitivity.csv trials.csv result.json report.md report.html "
    "best/plan.yaml best/weights/adapter_model.safetensors best/weights/adapter_config.json"
).split()


GIVEN = frozenset({"search.trials", "confirm.seeds"})


def spec_for(model_dir: Path, data_dir: Path, out: Path, **settings: object) -> RunSpec:
    usual = {"max_steps": 8, "batch_size": 8, "budget": "5%", "trials": 18, "seed": 3}
    return run_spec(model_dir, data_dir, out=out, **(usual | settings))


class WithoutStudy(Silent):
    """Fails where a study lies in a run's folder while the run still measures."""

    def __init__(self, out: Path) -> None:
        self.out = out

    def measured(self, *_: object, **__: object) -> None:
        assert not list(self.out.glob("study*")), "the study is written once, at the end"


@pytest.fixture(scope="module")
def run(model_dir: Path, data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "first"
    return pipeline.search(spec_for(model_dir, data_dir, out), given=GIVEN, progress=WithoutStudy(out))[1]


@pytest.fixture(scope="module")
def answer(run: Path) -> dict:
    return json.loads((run / "result.json").read_text(encoding="utf-8"))


def rows_of(run: Path, *, drop: str = "_seconds") -> list[dict[str, str]]:
    with (run / "trials.csv").open(encoding="utf-8", newline="") as stream:
        return [{k: v for k, v in row.items() if not k.endswith(drop)} for row in csv.DictReader(stream)]


def test_every_file_of_a_run_is_there_and_not_empty(run: Path) -> None:
    assert [name for name in FILES if not (run / name).is_file() or not (run / name).stat().st_size] == []


def test_plan_is_within_the_budget_and_three_counts_are_one_integer(run: Path, answer: dict) -> None:
    of_plan = pipeline.count(run / "best" / "plan.yaml").trainable_params
    of_configs = pipeline.count(run / "best" / "adapters").trainable_params
    assert of_plan == of_configs == answer["best"]["trainable_params"]
    assert of_plan <= answer["budget"]["max_trainable_params"]


def test_study_opens_and_holds_one_finished_trial_per_proposal(run: Path) -> None:
    study = optuna.load_study(study_name=None, storage=f"sqlite:///{run / 'study.sqlite'}")
    sources = [trial.user_attrs["source"] for trial in study.trials]
    proposed = [source for source in sources if source != "retuned"]
    assert len(proposed) <= 18
    assert all(trial.state.is_finished() for trial in study.trials)
    assert {"enqueued", "sampler", "random"} <= set(sources)
    assert set(sources) <= {"enqueued", "sampler", "random", "retuned"}


def test_trials_csv_has_every_measurement_and_names_its_split(run: Path, answer: dict) -> None:
    rows = rows_of(run)
    assert {row["split"] for row in rows} == {"search", "confirm", "test"}
    assert all(row["status"] == "COMPLETE" for row in rows)
    n_seeds = 1 if answer["verdict"]["interval_95"] is None else 2  # the baseline is not compared with itself
    assert len({row["seed"] for row in rows if row["split"] == "confirm"}) == n_seeds


FRESH = """
import json, sys
from peft import PeftConfig, PeftModel, get_peft_model
from transformers import AutoModelForSequenceClassification, AutoTokenizer
import csv, torch
run, data, *folders = sys.argv[1:]
config = PeftConfig.from_pretrained(f"{run}/best/adapters")
def base():
    return AutoModelForSequenceClassification.from_pretrained(config.base_model_name_or_path, num_labels=2)
attached = sum(p.numel() for p in get_peft_model(base(), config).parameters() if p.requires_grad)
tokenizer = AutoTokenizer.from_pretrained(config.base_model_name_or_path)
rows = list(csv.DictReader(open(f"{data}/validation.csv")))
names = sorted({row["label"] for row in rows})
@torch.no_grad()
def accuracy(folder):
    model = PeftModel.from_pretrained(base(), folder).eval()
    guesses = [names[model(**tokenizer(row["text"], return_tensors="pt")).logits.argmax()] for row in rows]
    return sum(guess == row["label"] for guess, row in zip(guesses, rows)) / len(rows)
print(json.dumps({"attached": attached, "accuracies": [accuracy(folder) for folder in folders]}))
"""


@pytest.fixture(scope="module")
def trained(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """The best plan of the run, trained in full with another seed."""
    return pipeline.train_plan(run, out=tmp_path_factory.mktemp("trained") / "adapter", seed=11)


@pytest.fixture(scope="module")
def fresh(run: Path, trained: Trained, data_dir: Path) -> dict:
    """What plain peft sees in a fresh process: attached parameters, and the accuracies of both adapters."""
    folders = (run, data_dir, run / "best" / "weights", trained.folder)
    done = subprocess.run(
        [sys.executable, "-c", FRESH, *map(str, folders)], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout.strip().splitlines()[-1])


def test_plain_peft_gives_the_same_count_and_the_confirmed_metric(
    run: Path, answer: dict, fresh: dict
) -> None:
    training = json.loads((run / "best/weights/training.json").read_text(encoding="utf-8"))
    assert fresh["attached"] - answer["best"]["head_params"] == answer["best"]["trainable_params"]
    assert fresh["accuracies"][0] == pytest.approx(training["metric"], abs=1e-12)
    first = answer["best"]["seeds"][0]
    confirmed = [r for r in rows_of(run) if r["split"] == "confirm" and r["plan_id"] == training["plan_id"]]
    assert {float(r["metric"]) for r in confirmed if int(r["seed"]) == first} == {training["metric"]}


def test_trained_plan_reproduces_its_metric_through_plain_peft(
    run: Path, trained: Trained, fresh: dict
) -> None:
    assert fresh["accuracies"][1] == trained.measurement.metric
    assert read_plan(trained.folder / "plan.yaml").plan == read_plan(run).plan
    with pytest.raises(RunDirError, match="not empty"):
        pipeline.train_plan(run, out=trained.folder)


def test_same_seed_gives_the_same_trials_but_for_the_seconds(
    run: Path, model_dir: Path, data_dir: Path, tmp_path: Path
) -> None:
    spec = spec_for(model_dir, data_dir, tmp_path / "again")
    _, again = pipeline.search(spec, given=GIVEN, progress=Silent())
    assert rows_of(again) == rows_of(run)


def test_resume_continues_a_stopped_run_to_the_same_end(
    run: Path, model_dir: Path, data_dir: Path, tmp_path: Path
) -> None:
    class Stops(Silent):
        seen = 0

        def measured(self, measurement: object, **_: object) -> None:
            Stops.seen += 1
            if Stops.seen == 5:
                raise KeyboardInterrupt

    spec = spec_for(model_dir, data_dir, tmp_path / "stopped")
    with pytest.raises(KeyboardInterrupt):
        pipeline.search(spec, given=GIVEN, progress=Stops())
    paused = tmp_path / "stopped" / "state" / "paused"
    assert len(list(paused.glob("*/*"))) == 5  # a later rung may continue each of the five plans
    _, path = pipeline.search(run_spec(out=spec.output.out), resume=True, progress=Silent())
    assert rows_of(path) == rows_of(run)
    assert not list(paused.glob("*"))
    first_five = [float(row["train_seconds"]) for row in rows_of(path, drop="never")[:5]]
    log = (path / "state/measurements.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["measurement"]["train_seconds"] for line in log[:5]] == first_five


@pytest.mark.parametrize(
    ("settings", "name", "words"),
    [
        ({"trials": 99}, "search.trials", "was 18 and cannot become 99"),
        ({"budget": "1%"}, "budget.requested", "was 5% and cannot become 1%"),
        ({"max_time": 60.0}, "search.max_time_seconds", "was not set and cannot become 60"),
    ],
)
def test_a_finished_run_refuses_other_settings(run: Path, settings: Any, name: str, words: str) -> None:
    spec = run_spec(out=run, **settings)
    with pytest.raises(SpecError, match=f"{name} {words}.* Leave it out, or pass another --out"):
        pipeline.search(spec, given=frozenset({name}), resume=True, progress=Silent())


def test_a_finished_run_says_that_it_is_and_gives_its_result(
    run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = shutil.copytree(run, tmp_path / "run")
    with caplog.at_level(logging.INFO):
        result, _ = pipeline.search(run_spec(out=out), resume=True, progress=Silent())
    assert f"{out} is finished; for other settings start a new one" in caplog.text
    assert result.verdict == RunDir.open(run).load_result().verdict
    assert rows_of(out) == rows_of(run)


def test_serial_search_reads_all_weights_at_its_start_and_at_its_end_alone(
    model_dir: Path, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digests: list[str] = []

    def sha256(base: BaseModel) -> str:
        digests.append(digest_of(base.module))
        return digests[-1]

    monkeypatch.setattr(BaseModel, "sha256", sha256)
    spec = spec_for(model_dir, data_dir, tmp_path / "run", trials=3, max_steps=4)
    _, path = pipeline.search(spec, given=GIVEN, progress=Silent())
    assert len(digests) == 2
    assert len(set(digests)) == 1
    assert facts_for_workers(RunDir.open(path), prepare(spec)) == loaded_facts(prepare(spec))
    assert len(digests) == 3  # the facts of workers need none


def test_report_renders_again_to_the_same_text(run: Path) -> None:
    before = (
        (run / "report.html").read_text(encoding="utf-8"),
        (run / "trials.csv").read_text(encoding="utf-8"),
    )
    pipeline.render(run)
    after = (
        (run / "report.html").read_text(encoding="utf-8"),
        (run / "trials.csv").read_text(encoding="utf-8"),
    )
    assert after == before


def test_budget_below_lora_is_searched_with_the_head_as_baseline(
    model_dir: Path, data_dir: Path, tmp_path: Path
) -> None:
    smallest_lora = 2 * json.loads((model_dir / "config.json").read_text(encoding="utf-8"))["hidden_size"]
    spec = spec_for(model_dir, data_dir, tmp_path / "tiny", budget=str(smallest_lora - 1))
    result, _ = pipeline.search(spec, progress=Silent())
    assert result.baseline.adapters == ()
    assert 0 <= result.best.trainable_params < smallest_lora
    fitting = {"ia3", "road", "bitfit", "ln_tuning"}
    assert {a.method for p in result.proposals for a in p.plan.adapters} <= fitting


def test_preview_trains_and_writes_nothing_and_counts_default_plans(
    run: Path, model_dir: Path, data_dir: Path, tmp_path: Path
) -> None:
    preview = pipeline.preview(spec_for(model_dir, data_dir, tmp_path / "none"), given=GIVEN)
    tried = [proposal.source for proposal in RunDir.open(run).load_result().proposals].count("enqueued")
    assert preview.default_trials in (tried, tried - 1) and tried < preview.trials  # scores may add one
    assert "default plans" not in preview_text(preview)
    assert "all default plans" in preview_text(replace(preview, trials=preview.default_trials))
    assert preview.full_run_steps == 8
    assert not (tmp_path / "none").exists()

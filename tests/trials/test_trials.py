"""Scores and adapters that a trainer gives back: what is accepted, and the one sentence of what is not."""

from __future__ import annotations

import json
import math
import shutil

import numpy as np
import peft
import pytest
import torch
import transformers
from toys.folders import write_model
from toys.trainers import WEIGHTS, cut, save_other, write_adapter
from transformers import Trainer, TrainingArguments

from autopeft.client import Score, Trial
from autopeft.errors import TrainingError
from autopeft.trials.study import Study
from autopeft.trials.trial_folders import read_score, require_sound


@pytest.fixture
def trial(tiny_llama, tmp_path):
    """The first trial of a study on a tiny Llama: LoRA on all linear layers, 8 of 20 steps."""
    study = Study(model=str(tiny_llama), budget="r4", full_steps=20, out=tmp_path / "study")
    return study.ask()


def test_score_of_a_known_metric_is_that_of_the_rows():
    score = Score.of("accuracy", [1, 0, 1, 1], [1, 1, 1, 0])
    assert (score.value, tuple(score.per_example)) == (0.5, (1.0, 0.0, 1.0, 0.0))
    numbers = Score.of("spearman", [1, 2, 3, 4], [10, 20, 40, 30])
    assert numbers.value == pytest.approx(0.8)  # 1 - 6 * 2 / (4 * 15)
    assert math.fsum(numbers.per_example) / 4 == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "result.json"),
        ('{"value": 0.', "not JSON"),
        ('{"value": "0.9"}', "value .*number"),
        ('{"loss": 1.0}', "value"),
        ('{"value": 1.0, "rows": [1]}', "rows"),
        ("[0.9]", "0.9"),
    ],
)
def test_file_that_is_not_a_score_is_refused(text, reason, tmp_path):
    path = tmp_path / "result.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(TrainingError, match=reason):
        read_score(path)


def test_score_in_a_file_is_read_as_it_was_written(trial, tmp_path):
    trial.write_score(tmp_path / "a.json", Score(value=0.5, per_example=[0.0, 1.0], loss=0.25))
    assert read_score(tmp_path / "a.json") == Score(value=0.5, per_example=[0.0, 1.0], loss=0.25)
    (tmp_path / "nan.json").write_text(json.dumps({"value": math.nan}))
    assert math.isnan(read_score(tmp_path / "nan.json").value)


def test_score_of_arrays_and_tensors_is_that_of_their_numbers(trial, tmp_path):
    rows = [0.0, 1.0, 1.0, 0.0]
    plain = Score(value=0.5, per_example=rows, loss=0.25)
    mean = torch.tensor(0.5, dtype=torch.bfloat16, requires_grad=True)
    assert Score(value=np.float32(0.5), per_example=np.array(rows) > 0, loss=torch.tensor(0.25)) == plain
    assert Score(value=mean, per_example=torch.tensor(rows), loss=np.float64(0.25)) == plain
    assert Score(value=0.5, per_example=[torch.tensor(row) for row in rows], loss=0.25) == plain
    trial.write_score(tmp_path / "a.json", Score(value=mean, per_example=np.array(rows), loss=0.25))
    assert read_score(tmp_path / "a.json") == plain
    assert Score.given(mean) == Score(value=0.5)
    with pytest.raises(ValueError, match="per_example"):
        Score.given(torch.ones(2))


@pytest.mark.parametrize(
    ("rows", "value", "reason"),
    [
        ([1.0] * 3, 1.0, "3 numbers"),
        ([1.0, 0.0, 0.0, math.nan], 0.5, "not finite"),
        ([1.0, 0.0, 0.0, 0.0], 0.5, "0.25"),
        ([90.0, 100.0, 0.0, 10.0], 50.0, "range of width 1"),
    ],
)
def test_rows_that_cannot_be_compared_are_refused(rows, value, reason):
    with pytest.raises(TrainingError, match=reason):
        require_sound(Score(value=value, per_example=rows), n_rows=4, span=1.0)


def test_trial_in_a_file_is_the_trial_that_was_given(trial):
    again = Trial.load(trial.path / "trial.json")
    assert again == trial
    assert again.peft_config.to_dict() == trial.peft_config.to_dict()


def test_steps_beyond_those_of_the_trial_are_an_error(trial):
    assert trial.report(trial.steps, 0.3)
    assert not trial.report(trial.steps, math.nan)
    with pytest.raises(ValueError, match=r"trial.steps"):
        trial.report(trial.steps + 1, 0.3)


@pytest.mark.parametrize("extra_steps", [-1, 0, 1])
def test_callback_writes_the_adapter_after_the_steps_of_the_trial(extra_steps, trial, tiny_llama, tmp_path):
    torch.manual_seed(0)
    config = transformers.AutoConfig.from_pretrained(tiny_llama)
    model = peft.get_peft_model(transformers.AutoModelForCausalLM.from_config(config), trial.peft_config)
    row = {"input_ids": [3, 4, 5], "labels": [3, 4, 5]}
    args = TrainingArguments(
        str(tmp_path / "trainer"),
        max_steps=trial.steps + extra_steps,
        report_to=[],
        logging_steps=1,
        use_cpu=True,
        save_strategy="no",
        disable_tqdm=True,
    )
    trainer = Trainer(model, args, train_dataset=[row] * 8, callbacks=[trial.callback()])
    if extra_steps:
        with pytest.raises(ValueError, match=f"{trial.steps + extra_steps}"):
            trainer.train()
        return
    trainer.train()
    n_saved = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert n_saved == trial.trainable_params
    assert (trial.folder / "adapter_model.safetensors").is_file()


def space_with(name: str, placement: str) -> str:
    """A space whose first plans are LoRA and one other, which is DoRA or a method."""
    options = {"dora": True} if name == "dora" else {}
    method = "lora" if options else name
    part = {"placement": sorted({"all", placement})}
    entry = {"method": method, "placement": placement, "rate": 0.5, "options": options}
    plans = [{"method": "lora", "rate": 0.4, "baseline": True}, entry]
    methods = {method: part, "lora": {"options": {"dora": [False, True]}}}
    families = "classification", "images", "language", "small", "tagging"
    content = {"schema_version": 1, "about": "two", "methods": methods}
    return json.dumps(content | {"listed": dict.fromkeys(families, plans)})


PLACEMENTS = {"lora": "all", "dora": "all", "ia3": "all", "road": "q", "hira": "all", "bitfit": "attention"}
PLACEMENTS["ln_tuning"] = "all"


@pytest.mark.parametrize("name", PLACEMENTS)
def test_saved_adapter_of_each_method_counts_as_its_plan(name, tmp_path):
    folder, auto_class = write_model(tmp_path / "bert"), "AutoModelForSequenceClassification"
    (tmp_path / "space.yaml").write_text(space_with(name, PLACEMENTS[name]))
    study = Study(
        model=str(folder),
        auto_class=auto_class,
        budget="30%",
        full_steps=20,
        seeds=1,
        space=str(tmp_path / "space.yaml"),
        out=tmp_path / "study",
    )
    types = set()
    while (trial := study.ask()) is not None:
        base = getattr(transformers, auto_class).from_config(transformers.AutoConfig.from_pretrained(folder))
        peft.get_peft_model(base, trial.peft_config).save_pretrained(str(trial.folder))
        study.tell(trial, Score(value=0.5, per_example=[0.0, 1.0]))  # raises for an adapter of another size
        types.add(
            (trial.split, type(trial.peft_config).__name__, getattr(trial.peft_config, "use_dora", False))
        )
    assert study.is_finished
    judged = {kind for split, *kind in types if split == "confirm" for kind in [tuple(kind)]}
    assert len(judged) == (1 if name == "lora" else 2)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (lambda trial: shutil.rmtree(trial.folder), "did not write an adapter"),
        (lambda trial: cut(trial.folder / WEIGHTS), "cannot be read"),
        (lambda trial: save_other(trial.folder / WEIGHTS), "4,096"),
    ],
)
def test_adapter_that_is_not_that_of_the_trial_is_refused(fault, reason, tiny_llama, tmp_path):
    study = Study(model=str(tiny_llama), budget="r4", full_steps=20, seeds=1, out=tmp_path / "study")
    while (trial := study.ask()).split == "search":
        study.tell(trial, 0.5)
    write_adapter(trial, tiny_llama)
    fault(trial)
    with pytest.raises(TrainingError, match=reason):
        study.tell(trial, 0.5)

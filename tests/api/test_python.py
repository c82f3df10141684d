"""The result of a search in Python: short to look at, and loaded, pushed and suggested as people call it."""

from __future__ import annotations

import pandas as pd
import peft
import pytest
import torch
import transformers
from toys.memory import SMALL, toy_dataset

import autopeft
from autopeft.errors import DataError, ModelError, SpecError
from autopeft.types import Status


@pytest.fixture(scope="module")
def named_run(model_dir, data_dir, tmp_path_factory):
    """A search on names, as in `autopeft.search(model, data, budget=…)`."""
    out = tmp_path_factory.mktemp("named") / "run"
    return autopeft.search(str(model_dir), str(data_dir), out=out, **SMALL)


def test_model_and_data_are_taken_by_position(named_run, model_dir, data_dir):
    spec = named_run.spec
    assert (spec.model.id, spec.data.source) == (str(model_dir), str(data_dir))
    with pytest.raises(SpecError, match="model is passed twice"):
        autopeft.search("a", model="b")
    with pytest.raises(SpecError, match="data is passed twice"):
        autopeft.search("run.yaml", "a.csv", data="b.csv")


def test_result_is_short_to_look_at_and_knows_its_folder(named_run):
    assert named_run.path.joinpath("result.json").is_file()
    text = repr(named_run)
    assert len(text) < 300 and "\n" not in text
    assert named_run.verdict.label in text and f"{named_run.best.trainable_params:,} params" in text
    html = named_run._repr_html_()
    assert len(html) < 5_000 and "<table>" in html and "LoRA" in html
    assert len(repr(autopeft.load_result(named_run.path))) == len(text)


def test_a_result_answers_texts_and_trains_its_plans_again(named_run, tmp_path):
    texts = toy_dataset(20, seed=5)["text"]
    replies = named_run.predict(texts)
    adapted, tokenizer = named_run.load(), transformers.AutoTokenizer.from_pretrained(named_run.spec.model.id)
    with torch.inference_mode():
        logits = adapted(**tokenizer(list(texts), return_tensors="pt", padding=True)).logits
    names = adapted.config.id2label
    assert [reply.label for reply in replies] == [names[i] for i in logits.argmax(-1).tolist()]
    share = float(logits[0].softmax(-1).max())
    assert replies[0].probabilities[replies[0].label] == pytest.approx(share, abs=1e-5)
    baseline = named_run.plans["baseline"]
    assert baseline.plan == named_run.baseline
    trained = baseline.train(tmp_path / "baseline")
    (full,) = [record for record in named_run.full_runs if record.plan == named_run.baseline]
    assert trained.measurement.metric == full.metric_mean


def test_predict_refuses_tables_because_their_keys_look_like_texts(named_run):
    with pytest.raises(SpecError):
        named_run.predict(toy_dataset(2).to_pandas())


def test_the_usual_call_names_the_label_and_a_dry_run_searches_nothing(model_dir, tmp_path):
    frame = toy_dataset().to_pandas().rename(columns={"label": "team", "text": "message"})
    about = {"label": "team", "effort": "quick", "max_steps": 8, "batch_size": 8}
    preview = autopeft.search(str(model_dir), frame, "5%", out=tmp_path / "run", dry_run=True, **about)
    setting = preview.setting
    assert (setting.input_columns, preview.label, setting.full_run_steps) == (("message",), "team", 8)
    assert setting.budget.max_trainable_params == setting.budget.base_params // 20
    assert not (tmp_path / "run").exists()
    with pytest.raises(SpecError, match=r"label_column"):
        autopeft.search(str(model_dir), frame, "5%", label_column="team", dry_run=True, **about)


def test_leaderboard_has_every_plan_once_with_finished_plans_first(named_run):
    table = named_run.leaderboard()
    measured = {m.plan.digest for m in named_run.measurements if m.status is Status.COMPLETE}
    assert isinstance(table, pd.DataFrame) and set(table["plan_id"]) == measured
    assert table["plan_id"].is_unique
    finished = table[table["split"] == "confirm"]
    assert list(finished.index) == list(range(len(finished)))
    assert finished["metric"].is_monotonic_decreasing
    (best,) = table[table["answers"].str.contains("best")].to_dict("records")
    expected = next(run for run in named_run.full_runs if run.plan == named_run.best)
    assert best["metric"] == expected.metric_mean


def test_modes_that_the_caller_set_in_torch_change_no_number(model_dir, data_dir, tmp_path):
    names, few = (str(model_dir), str(data_dir)), {"max_steps": 4, "trials": 2, "methods": "lora"}
    usual = autopeft.search(*names, "5%", out=tmp_path / "usual", **few)
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.no_grad():
            again = autopeft.search(*names, "5%", out=tmp_path / "again", **few)
            trained = usual.plans["baseline"].train(tmp_path / "baseline").measurement
            assert (torch.get_default_dtype(), torch.is_grad_enabled()) == (torch.bfloat16, False)
    finally:
        torch.set_default_dtype(torch.float32)
    losses, others = ([(m.plan, m.fidelity, m.loss) for m in run.measurements] for run in (usual, again))
    assert others == losses and (trained.plan, trained.fidelity, trained.loss) in losses


def test_model_in_memory_is_passed_to_load(run, make_base):
    _, _, result, _ = run
    with pytest.raises(ModelError, match=r"result\.load\(model\)"):
        result.load()
    loaded = result.load(make_base("bert").module)
    assert isinstance(loaded, peft.PeftModel) and not loaded.training


def test_data_frames_are_read_like_data_sets(model_dir, tmp_path):
    frame = toy_dataset().to_pandas()
    frame.index = frame.index + 7  # an index is no column
    by_frame = autopeft.analyze(str(model_dir), frame, scores=["gradient"], budget="5%")
    by_dataset = autopeft.analyze(str(model_dir), toy_dataset(), scores=["gradient"], budget="5%")
    assert by_frame.sensitivity.scores == by_dataset.sensitivity.scores
    assert len(repr(by_frame)) < 300
    parts = {"train": frame, "validation": toy_dataset(40, 1).to_pandas()}
    by_split = autopeft.analyze(str(model_dir), parts, scores=["gradient"], budget="5%")
    assert by_split.n_train > by_frame.n_train
    with pytest.raises(DataError, match="list"):
        autopeft.analyze(str(model_dir), [1, 2])


@pytest.mark.parametrize(("budget", "rank"), [("r4", 4), ("r5", 4), ("10%", None)])
def test_suggested_config_trains_what_it_says_and_the_budget_allows(budget, rank, model_dir):
    suggestion = autopeft.suggest(model_dir, budget=budget, task="text-classification")
    base = transformers.AutoModelForSequenceClassification.from_pretrained(model_dir, num_labels=2)
    n_base = sum(p.numel() for n, p in base.named_parameters() if not n.startswith("classifier"))
    model = peft.get_peft_model(base, suggestion.config)
    adapter = [p.numel() for n, p in model.named_parameters() if p.requires_grad and "lora_" in n]
    assert sum(adapter) == suggestion.trainable_params
    assert suggestion.config.r == rank or rank is None
    assert suggestion.trainable_params <= n_base // 10 or rank is not None
    low, high = (suggestion.learning_rate * factor for factor in (0.1, 10))
    assert low < 1e-2 < high  # near the rate of the README's demo, on a narrower model

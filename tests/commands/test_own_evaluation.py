"""`--evaluate`: a function of the user judges the finished adapters, and cannot spoil the answer."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import pytest
from peft import LoraConfig, get_peft_model
from toys.bases import toy_base

from autopeft import commands, statistics
from autopeft.errors import SpecError
from autopeft.model.light_layers import lighten
from autopeft.report.progress import Lines
from autopeft.store import RunDir, resolve_settings

MODULE = """
import csv

CALLS = []


def hits(model, tokenizer):
    CALLS.append(model.training)
    with open({rows!r}, newline="") as file:
        rows = list(csv.DictReader(file))
    inputs = tokenizer([row["text"] for row in rows], padding=True, return_tensors="pt")
    guesses = model(**inputs).logits.argmax(-1)
    return [model.config.id2label[int(g)] == row["label"] for g, row in zip(guesses, rows)]


def number(model, tokenizer):
    print("said by the function")
    weights = (weight for name, weight in model.named_parameters() if "lora" in name or "ia3" in name)
    return -sum(weight.square().sum() for weight in weights)


def raises(model, tokenizer):
    raise ValueError("no such file\\nmore")


def infinite(model, tokenizer):
    return [0.0, float("inf")]


def stops(model, tokenizer):
    raise KeyboardInterrupt


def unequal(model, tokenizer):
    CALLS.append(0)
    return [1.0] * len(CALLS)


def spoils(model, tokenizer):
    next(model.get_base_model().parameters()).add_(1.0)
    return 1.0
"""


@pytest.fixture
def module(tmp_path, data_dir, monkeypatch):
    """The name of a module in the working directory that no other test has imported."""
    name = f"own_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{name}.py").write_text(MODULE.format(rows=str(data_dir / "test.csv")))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


@pytest.fixture
def run(small_spec, shared_folder, tmp_path):
    """A copy of a finished search without an evaluation, which hands over another plan than the baseline."""

    def fill(folder):
        settings = small_spec(folder, methods="ia3,lora", margin=0.45)  # so that the smaller plan is as good
        commands.run_search(settings, progress=Lines())

    copy = shutil.copytree(shared_folder("run-to-evaluate", fill), tmp_path / "run")
    result = RunDir.open(copy).load_result()
    assert result.best != result.baseline
    return copy


def evaluated(run, name):
    """Resume the finished run with an evaluation, in which nothing is trained."""
    n_before = len(RunDir.open(run).measurements.load_repeated())
    flags = {"output.out": str(run), "search.evaluate": name}
    spec, explicit = resolve_settings(config=None, env={}, flags=flags, assignments=())
    result, _ = commands.run_search(spec, explicit=explicit, resume=True, progress=Lines())
    assert len(RunDir.open(run).measurements.load_repeated()) == n_before
    return result


def test_hits_of_a_function_are_those_of_the_report_and_are_compared_in_pairs(run, module):
    result = evaluated(run, f"{module}:hits")
    by_plan = {record.plan: record.metric_mean for record in result.test}
    evaluation = result.evaluation
    assert evaluation.n_rows == 40 and sys.modules[module].CALLS == [False, False]
    assert evaluation.best == pytest.approx(by_plan[result.best])
    assert evaluation.baseline == pytest.approx(by_plan[result.baseline])
    rows = {
        m.plan: [m.example_scores] for m in RunDir.open(run).measurements.load() if m.fidelity.split == "test"
    }
    pair = statistics.paired_difference(rows[result.best], rows[result.baseline], span=1.0)
    assert evaluation.interval_95 == pytest.approx((pair.low, pair.high))
    sentence = f"By {module}:hits (larger is better): "
    written = json.loads((run / "result.json").read_text(encoding="utf-8"))
    assert written["evaluation"]["best"] == evaluation.best
    for page in ("report.html", "report.md", "best/weights/README.md"):
        text = (run / page).read_text(encoding="utf-8").replace("\\_", "_")
        assert sentence in text, page


def test_a_number_is_shown_without_an_interval(run, module, capsys):
    evaluation = evaluated(run, f"{module}:number").evaluation
    assert evaluation.best < 0 and evaluation.n_rows == 1 and evaluation.interval_95 is None
    assert capsys.readouterr().out == ""  # which `--json` keeps for one object


@pytest.mark.parametrize(
    ("function", "fault"),
    [
        ("raises", "ValueError: no such file"),
        ("infinite", "finite"),
        ("unequal", "scores"),
        ("spoils", "of the base model"),
    ],
)
def test_a_function_that_fails_is_one_warning_next_to_a_whole_answer(run, module, caplog, function, fault):
    before = RunDir.open(run).load_result()
    result = evaluated(run, f"{module}:{function}")
    (warning,) = [r.getMessage() for r in caplog.records if "--evaluate" in r.getMessage()]
    assert fault in warning
    assert result.evaluation is None and result.verdict == before.verdict
    assert RunDir.open(run).load_result().verdict == before.verdict


def test_a_call_that_is_cut_leaves_the_answer_and_the_command_that_resumes(run, module, caplog):
    (run / "result.json").unlink()
    with pytest.raises(KeyboardInterrupt):
        evaluated(run, f"{module}:stops")
    assert json.loads((run / "result.json").read_text(encoding="utf-8"))["evaluation"] is None
    assert caplog.messages[-1].endswith(f"--resume --out {run} --evaluate {module}:stops")
    assert evaluated(run, f"{module}:hits").evaluation.n_rows == 40


def test_code_that_a_file_names_runs_only_if_the_user_names_it_too(module, tmp_path):
    name, config = f"{module}:hits", tmp_path / "stranger.yaml"
    config.write_text(f"search:\n  evaluate: '{name}'\n")
    settings = {"config": config, "env": {}, "assignments": ()}
    spec, _ = resolve_settings(flags={"output.out": str(tmp_path / "run")}, **settings)
    with pytest.raises(SpecError, match="--evaluate"):
        commands.run_search(spec, progress=Lines())
    assert module not in sys.modules and not (tmp_path / "run").exists()


def test_a_name_without_a_function_is_refused_before_any_work(small_spec, module, tmp_path):
    with pytest.raises(SpecError, match=f"{module}:lost"):
        commands.run_search(small_spec(tmp_path / "run", evaluate=f"{module}:lost"), progress=Lines())


def test_the_function_of_the_docs_counts_what_the_adapter_changed(tokenizer, module, tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "report.md").read_text(encoding="utf-8")
    names = {}
    exec(re.search(r"```python\n(from pathlib.*?)```", page, re.DOTALL)[1], names)
    texts = ["the food was good", "a bad film"]
    (tmp_path / "other_text.txt").write_text("\n".join(texts))
    base = toy_base("llama-lm", tokenizer=tokenizer)
    lines = [
        tokenizer(line, return_tensors="pt")["input_ids"] for line in ("the food was good", "a bad film")
    ]
    before = [base.module(input_ids=ids, labels=ids).loss.item() for ids in lines]
    adapted = get_peft_model(base.module, LoraConfig(target_modules="all-linear", init_lora_weights=False))
    lighten(adapted)
    after = [adapted(input_ids=ids, labels=ids).loss.item() for ids in lines]
    differences = [old - new for old, new in zip(before, after, strict=True)]
    assert names["remembered"](adapted, tokenizer) == pytest.approx(differences, abs=1e-6)
    assert max(map(abs, differences)) > 1e-4

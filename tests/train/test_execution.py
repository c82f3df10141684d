"""On which device, in which numbers, and at which commit of the hub a run computes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from autopeft import model, pipeline
from autopeft.cli.display import Silent
from autopeft.errors import ModelError
from autopeft.pipeline.resuming import resumed
from autopeft.records import DataSpec, ExecutionSpec, ModelSpec, OutputSpec, RunSpec, TaskSpec
from autopeft.store import RunDir

ROOT = Path(__file__).parents[2]
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def cross_entropy(module, bench, *, autocast):
    """Mean loss over the search split, one example at a time, without the bench's own code."""
    split, losses = bench.splits["search"], []
    for example, label in zip(split.examples, split.labels, strict=True):
        row = {name: torch.tensor([ids]) for name, ids in example.items()}
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            logits = module.eval()(**row).logits[0]
        losses.append(float(torch.logsumexp(logits.double(), 0) - logits.double()[label]))
    return sum(losses) / len(losses)


def test_bfloat16_computes_as_torch_s_autocast_and_keeps_weights_in_float32(make_base, make_bench):
    base = make_base("bert")
    bench = make_bench(base=base, dtype="bfloat16")
    plain = make_bench(base=base)
    exact = cross_entropy(base.module, bench, autocast=False)
    rough = cross_entropy(base.module, bench, autocast=True)
    assert rough != pytest.approx(exact, abs=1e-6)
    assert plain.evaluate(base.module, "search").loss == pytest.approx(exact, abs=1e-5)
    # Padding changes the order of bfloat16's sums, so that the last bits differ.
    assert bench.evaluate(base.module, "search").loss == pytest.approx(rough, abs=2e-3)
    assert {parameter.dtype for parameter in base.module.parameters()} == {torch.float32}


def test_adapters_learn_in_bfloat16_as_they_do_in_float32(make_bench, make_base, make_plan, fidelity):
    found = {}
    for dtype in ("float32", "bfloat16"):
        bench = make_bench(base=make_base("bert"), dtype=dtype)
        plan = make_plan(bench.base, "lora", learning_rate=2e-2)
        short, long = (bench.measure(plan, fidelity(train_steps=steps)) for steps in (1, 60))
        assert (short.error, long.error) == (None, None)
        found[dtype] = short.loss, long.loss
    gain = found["float32"][0] - found["float32"][1]
    assert gain > 0.1
    assert found["bfloat16"][0] - found["bfloat16"][1] > gain / 2


def test_run_in_bfloat16_says_so(model_dir, data_dir, tmp_path):
    spec = RunSpec.model_validate(
        {
            "model": {"id": str(model_dir)},
            "data": {"source": str(data_dir)},
            "task": {"max_steps": 4, "batch_size": 8},
            "budget": {"requested": "5%"},
            "search": {"trials": 2},
            "confirm": {"fidelity": "none"},
            "execution": {"dtype": "bfloat16", "device": "cpu"},
            "output": {"out": str(tmp_path / "run")},
        }
    )
    result, _ = pipeline.search(spec, progress=Silent())
    assert (result.environment["dtype"], result.environment["device"]) == ("bfloat16", "cpu")


@pytest.mark.parametrize("device", ["gpu", "meta", "cuda:99"])
def test_device_that_is_not_there_is_refused(model_dir, device):
    with pytest.raises(ModelError, match=rf"The device '{device}' cannot be used here .*use cpu or another"):
        model.load(
            ModelSpec(id=str(model_dir)),
            auto_class="AutoModelForSequenceClassification",
            label_names=("a", "b"),
            device=device,
        )


def test_model_of_the_hub_is_pinned_to_its_commit(model_dir, data_dir, tmp_path):
    """A cache as the hub's client lays it out, without the network."""
    cached = tmp_path / "home" / "hub" / "models--toys--tiny"
    shutil.copytree(model_dir, cached / "snapshots" / COMMIT)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(COMMIT, encoding="utf-8")
    asked = (
        "--model",
        "toys/tiny",
        "--data",
        data_dir,
        "--budget",
        "5%",
        "--max-steps",
        4,
        "--batch-size",
        8,
    )
    few = ("--trials", 2, "--confirm", "none", "--revision", "main", "--out", tmp_path / "run")
    settings = {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "autopeft", "search", *map(str, (*asked, *few)), "--json"]
    env = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))}
    done = subprocess.run(command, env={**env, **settings}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    run = Path(json.loads(done.stdout)["run"])
    spec = yaml.safe_load((run / "run.yaml").read_text(encoding="utf-8"))
    plan = yaml.safe_load((run / "best" / "plan.yaml").read_text(encoding="utf-8"))
    assert spec["model"]["revision"] == plan["base_model"]["revision"] == COMMIT


def test_a_pinned_run_goes_on_where_it_was_asked_by_a_branch(tmp_path):
    out = OutputSpec(out=str(tmp_path / "run"))
    stored = RunSpec(model=ModelSpec(id="toys/tiny", revision=COMMIT))
    with RunDir.create(tmp_path / "run", resume=False) as run:
        run.write_spec(stored)
    asked = RunSpec(model=ModelSpec(id="toys/tiny", revision="main"), output=out)
    assert resumed(asked, frozenset({"model.revision"})).model == stored.model


def test_local_model_has_no_commit(model_dir, data_dir):
    spec = RunSpec(
        model=ModelSpec(id=str(model_dir)),
        data=DataSpec(source=str(data_dir)),
        task=TaskSpec(max_steps=4, batch_size=8),
        execution=ExecutionSpec(device="cpu"),
    )
    assert pipeline.analyze(spec, scores=["uniform"]).suggestion.model.revision is None

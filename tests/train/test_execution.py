"""The device, the dtype and the hub commit that a run computes with."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
import transformers
import yaml
from huggingface_hub import constants as hub
from toys.specs import run_spec

from autopeft import commands, model
from autopeft.errors import ModelError
from autopeft.model import pretrained
from autopeft.report.progress import Lines
from autopeft.setup.resuming import resumed
from autopeft.store import RunDir
from autopeft.train import watched
from autopeft.train.loop import DivergedError, TrainingRun, train
from autopeft.train.rates import RateSchedule
from autopeft.types import ModelSpec, OutputSpec, RunSpec

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


def test_base_in_bfloat16_computes_as_torch_s_autocast_of_one_in_float32(make_base, make_bench):
    base, held = make_base("bert"), make_base("bert", dtype="bfloat16")
    bench, plain = make_bench(base=held), make_bench(base=base)
    exact = cross_entropy(base.module, bench, autocast=False)
    rough = cross_entropy(base.module, bench, autocast=True)
    assert rough != pytest.approx(exact, abs=1e-6)
    assert plain.evaluate(base.module, "search").loss == pytest.approx(exact, abs=1e-5)
    # Padding changes the order of bfloat16's sums, so that the last bits differ.
    assert bench.evaluate(held.module, "search").loss == pytest.approx(rough, abs=4e-3)


def test_adapters_learn_in_16_bits_as_they_do_in_float32(make_bench, make_base, make_plan, fidelity):
    losses = {}
    for dtype in ("float32", "bfloat16", "float16"):
        bench = make_bench(base=make_base("bert", dtype=dtype))
        plan = make_plan(bench.base, "lora", learning_rate=2e-2)
        short, long = (bench.measure(plan, fidelity(train_steps=steps)) for steps in (1, 60))
        assert (short.error, long.error) == (None, None)
        losses[dtype] = short.loss, long.loss
    gain = losses["float32"][0] - losses["float32"][1]
    assert gain > 0.1
    for dtype in ("bfloat16", "float16"):
        assert losses[dtype][0] - losses[dtype][1] > gain / 2


def test_a_step_whose_gradients_leave_float16_is_skipped_at_half_the_scale(monkeypatch):
    """Which is that of torch's loop with a GradScaler: the loss is finite, and the run goes on."""
    weight = torch.nn.Parameter(torch.ones(4))
    model = torch.nn.ParameterList([weight])
    factors = [1.0, 1e36, 1.0]  # 1e36 x 65536 is infinite in float32, as 1.0 x 65536 is in float16
    run = TrainingRun(
        steps=[[[step]] for step in range(3)],
        sizes=np.ones(3, dtype=np.int64),
        batch=lambda rows: ({"factor": factors[rows[0]]}, 1),
        loss=lambda _, batch: (weight * batch["factor"]).sum(),
        schedule=RateSchedule(n_steps=3, n_full=3),
        seed=0,
        scales_gradients=True,
    )
    values = []
    with watched(lambda *_: values.append(float(weight[0].detach()))):
        train(model, [{"params": [weight], "lr": 0.1}], run, device=torch.device("cpu"))
    assert values[0] == values[1] > values[2]
    factors[:] = [float("inf")] * 3
    with pytest.raises(DivergedError, match="finite"):
        train(model, [{"params": [weight], "lr": 0.1}], run, device=torch.device("cpu"))


@pytest.mark.parametrize("device", ["gpu", "cuda:99"])
def test_device_that_is_not_there_is_refused(model_dir, device):
    spec, labels = ModelSpec(id=str(model_dir)), ("a", "b")
    with pytest.raises(ModelError, match=device):
        model.load(spec, auto_class="AutoModelForSequenceClassification", label_names=labels, device=device)


def test_model_of_the_hub_is_pinned_to_its_commit(model_dir, data_dir, tmp_path, monkeypatch):
    """A cache as the hub's client lays it out, without the network."""
    cached = tmp_path / "hub" / "models--toys--tiny"
    shutil.copytree(model_dir, cached / "snapshots" / COMMIT)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(COMMIT, encoding="utf-8")
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path / "hub"))  # read from the environment at import
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", True)
    settings = {"budget": "5%", "max_steps": 4, "batch_size": 8, "effort": "quick"}
    spec = run_spec("toys/tiny", data_dir, revision="main", out=str(tmp_path / "run"), **settings)
    _, run = commands.run_search(spec, progress=Lines())
    spec = yaml.safe_load((run / "run.yaml").read_text(encoding="utf-8"))
    plan = yaml.safe_load((run / "best" / "plan.yaml").read_text(encoding="utf-8"))
    assert spec["model"]["revision"] == plan["base_model"]["revision"] == COMMIT


def test_run_pinned_to_a_commit_resumes_under_the_branch_of_its_flags(tmp_path):
    out = OutputSpec(out=str(tmp_path / "run"))
    stored = RunSpec(model=ModelSpec(id="toys/tiny", revision=COMMIT))
    with RunDir.create(tmp_path / "run", resume=False) as run:
        run.write_spec(stored)
    spec = RunSpec(model=ModelSpec(id="toys/tiny", revision="main"), output=out)
    assert resumed(spec).model == stored.model


@pytest.mark.parametrize(
    ("device", "current"), [("cuda:1", [torch.device("cuda:1")]), ("cuda", []), ("cpu", [])]
)
def test_gpu_with_a_number_becomes_the_current_one(device, current, model_dir, monkeypatch):
    chosen = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(pretrained, "find_device", torch.device)
    monkeypatch.setattr(transformers.PreTrainedModel, "to", lambda module, place: module)  # no GPU is here
    spec, labels = ModelSpec(id=str(model_dir)), ("a", "b")
    model.load(spec, auto_class="AutoModelForSequenceClassification", label_names=labels, device=device)
    assert chosen == current

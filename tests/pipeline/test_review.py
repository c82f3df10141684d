"""Faults that a review found, each as a test."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
import torch
from rich.console import Console
from toys.engine import World, levels, method_of, run
from transformers import OPTConfig, OPTForSequenceClassification

from autopeft.cli.display import Live
from autopeft.errors import SpecError, TrainingError
from autopeft.executors.serial import Serial
from autopeft.extension import discover
from autopeft.model import list_sites
from autopeft.pipeline.resuming import _refuse_less
from autopeft.records import Fidelity, Measurement, Plan, Status
from autopeft.sensitivity import measure

HEAD = Plan(adapters=(), learning_rate=1e-3, trainable_params=0)
FIDELITY = Fidelity(split="search", train_steps=1, train_examples=1, eval_examples=1, seed=0)


def test_each_measurement_is_recorded_before_the_next_one_begins():
    from autopeft.engine import Ledger

    events = []

    class Quiet:
        def phase(self, name, n_measurements): ...
        def measured(self, measurement, *, arm, seconds_left): ...

    def measure(plan, fidelity):
        events.append(("measure", fidelity.seed))
        return Measurement(plan=plan, fidelity=fidelity, status=Status.COMPLETE, metric=1.0, loss=1.0)

    keys = [(HEAD, replace(FIDELITY, seed=seed)) for seed in range(3)]
    known = {keys[1]: measure(*keys[1])}
    events.clear()
    ledger = Ledger(
        executor=Serial(),
        measure=measure,
        progress=Quiet(),
        known=known,
        record=lambda measurement: events.append(("record", measurement.fidelity.seed)),
    )
    ledger.measure_all(keys)
    assert events == [("measure", 0), ("record", 0), ("measure", 2), ("record", 2)]
    assert list(ledger.measured) == keys


def broken_world(method):
    """A world where the second confirming run of a method runs out of memory."""

    def quality(plan, fidelity):
        is_broken = fidelity.split == "confirm" and fidelity.seed == 2 and method_of(plan) == method
        return None if is_broken else levels()(plan, fidelity)

    return World(quality=quality, error="out of memory", failure=Status.FAIL)


def test_a_confirming_run_that_broke_off_is_no_score():
    with pytest.raises(TrainingError, match=r"failed: out of memory.*continue with --resume"):
        run(broken_world("lora"), seeds=3)


def test_a_run_of_the_head_that_broke_off_costs_its_place_alone():
    outcome = run(broken_world("head"), seeds=3).outcome
    assert outcome.verdict.label == "better"
    assert "head" not in {confirmation.name for confirmation in outcome.confirmations}


def test_an_error_with_brackets_is_shown_as_it_is():
    shown = io.StringIO()
    live = Live(Console(file=shown, width=200))
    failed = Measurement(plan=HEAD, fidelity=FIDELITY, status=Status.FAIL, error="bad [/close] tag")
    live.phase("rung 1", 1)
    live.measured(failed, arm="head", seconds_left=None)
    live.close()
    assert "bad [/close] tag" in shown.getvalue()


def test_a_run_cannot_be_resumed_with_fewer_trials():
    _refuse_less("search.trials", before=8, now=8)
    with pytest.raises(SpecError, match="only grow"):
        _refuse_less("search.trials", before=8, now=4)


@pytest.mark.parametrize("score", ["gradient", "fisher"])
def test_a_score_does_not_care_how_a_module_lays_out_its_tokens(score):
    # OPT's feed-forward maps see (B T, in); autograd says what the score must be.
    torch.manual_seed(0)
    config = OPTConfig(
        vocab_size=20, hidden_size=8, ffn_dim=12, num_hidden_layers=1, num_attention_heads=2,
        word_embed_proj_dim=8, max_position_embeddings=16, dropout=0.0, pad_token_id=0,
    )  # fmt: skip
    model = OPTForSequenceClassification(config).eval().requires_grad_(False)
    batch = {"input_ids": torch.randint(3, 20, (4, 5)), "labels": torch.tensor([0, 1, 1, 0])}
    batch["attention_mask"] = torch.ones_like(batch["input_ids"])
    task = discover("autopeft.tasks")["text-classification"]
    site = next(site for site in list_sites(model) if site.name.endswith("fc1"))
    part = discover("autopeft.sensitivity")[score]
    found = measure([part], model, [batch, batch], [site], task=task, seed=0).scores[0].values
    weight = model.get_submodule(site.name).weight.requires_grad_()
    rows = [{name: tensor[i : i + 1] for name, tensor in batch.items()} for i in range(4)]
    grads = [torch.autograd.grad(task.loss(model, row), weight)[0] for row in rows]
    wanted = {
        "gradient": (weight.detach() * sum(grads) / 4).abs().sum(),
        "fisher": sum(grad.square().sum() for grad in grads) / 4,
    }
    assert found == pytest.approx((float(wanted[score]),), rel=1e-4)

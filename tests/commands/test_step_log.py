"""Training logs its steps now and then."""

from __future__ import annotations

import logging

import numpy as np
import torch
from torch import nn

from autopeft.commands.train import _Steps
from autopeft.train import watched
from autopeft.train.loop import TrainingRun, train
from autopeft.train.rates import RateSchedule

N_STEPS = 12


def trained():
    """Train a toy on losses of 1, 2, … by step."""
    module = nn.Linear(1, 1)
    made = []

    def loss(model, batch):
        made.append(len(made) // 2 + 1)
        return model(torch.ones(1, 1)).sum() * 0 + made[-1]

    run = TrainingRun(
        steps=[[[0], [1]]] * N_STEPS,
        sizes=np.ones(2, dtype=np.int64),
        batch=lambda rows: ({}, len(rows)),
        loss=loss,
        schedule=RateSchedule(n_steps=N_STEPS, n_full=N_STEPS),
        seed=0,
    )
    train(module, [{"params": list(module.parameters()), "lr": 0.0}], run, device=torch.device("cpu"))


def test_every_step_is_heard_of_with_its_mean_loss():
    heard = []
    with watched(lambda step, n_steps, loss: heard.append((step, n_steps, loss()))):
        trained()
    trained()  # no longer watched
    assert heard == [(step, N_STEPS, float(step)) for step in range(1, N_STEPS + 1)]


def test_a_line_comes_every_ten_seconds_with_the_time_left(caplog):
    seconds = iter(range(0, 100, 4))  # a step takes four seconds
    steps = _Steps(clock=lambda: float(next(seconds)))
    with caplog.at_level(logging.INFO), watched(steps.add):
        trained()
    starts = ("step 4 of 12: loss 4.0000", "step 7 of 12: loss 7.0000", "step 10 of 12: loss 10.0000")
    assert [line.startswith(start) for line, start in zip(caplog.messages, starts, strict=True)] == [True] * 3

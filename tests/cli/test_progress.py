"""What the terminal shows while a search runs."""

from __future__ import annotations

import io

from rich.console import Console

from autopeft.cli.progress import Live
from autopeft.records import Fidelity, Measurement, Plan, Status

HEAD = Plan(adapters=(), learning_rate=1e-3, trainable_params=0)
FIDELITY = Fidelity(split="search", train_steps=1, train_examples=1, eval_examples=1, seed=0)


def test_an_error_with_brackets_is_shown_as_it_is():
    shown = io.StringIO()
    live = Live(Console(file=shown, width=200))
    failed = Measurement(plan=HEAD, fidelity=FIDELITY, status=Status.FAIL, error="bad [/close] tag")
    live.phase("rung 1", 1)
    live.measured(failed, arm="head", seconds_left=None)
    live.close()
    assert "bad [/close] tag" in shown.getvalue()

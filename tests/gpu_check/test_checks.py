"""`autopeft info --gpu`: every check on the CPU, with a fake for what only a GPU does."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from typer.testing import CliRunner

from autopeft.cli.app import app
from autopeft.errors import ModelError
from autopeft.gpu_check import checks
from autopeft.gpu_check.checks import Gpu, Place, Row, check_demo, check_gpu
from autopeft.model import Precision

ROOT = Path(__file__).parents[2]
TINY = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "vocab_size": 200}
TINY |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256}


class FakeGpu(Gpu):
    """A CPU whose clock shows the given times."""

    def __init__(self, times=None):
        super().__init__(torch.device("cpu"))
        self.estimated_as = "l4"
        self.times = iter(times or itertools.count())
        self.modes = []

    def facts(self):
        return {"name": "fake", "gib": 1.0}

    def now(self):
        return float(next(self.times))

    def on_wait(self, mode):
        self.modes.append(mode)


def place(dtype="float32", times=None, **more):
    return Place(gpu=FakeGpu(times), precision=Precision(dtype=dtype), shape=TINY, n_tokens=64, **more)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_toy_learns_in_each_format_and_float16_skips_a_step_that_overflows(dtype):
    row = checks.check_number_format(place(dtype))
    assert (row.status, row.numbers["dtype"]) == ("PASS", dtype), row.found
    assert row.numbers["last_loss"] < row.numbers["first_loss"]


def test_a_wait_inside_of_a_step_fails():
    quiet = place()
    assert checks.check_waits(quiet).status == "PASS"
    assert quiet.gpu.modes == ["default", "error", "default", "default", "default", "default"]
    waiting = place()
    waiting.gpu.on_wait = lambda mode: 1 / (mode != "error")
    assert checks.check_waits(waiting).status == "FAIL"


@pytest.mark.parametrize(("slowdown", "status"), [(1, "PASS"), (2, "FAIL")])
def test_new_shapes_that_take_longer_the_first_time_fail(slowdown, status):
    times = itertools.accumulate(itertools.chain([slowdown] * 50, [1] * 50))
    row = checks.check_attention(place(times=times))
    assert (row.status, row.numbers["second_seconds"]) == (status, 49)
    assert row.numbers["first_seconds"] == 49 * slowdown
    assert "flash" in row.numbers["kernels"]


def test_memory_is_that_of_the_estimate_within_its_tolerance():
    here = place()
    row = checks.check_memory(here)
    measured, predicted = row.numbers["measured_bytes"], row.numbers["predicted_bytes"]
    assert predicted == here.estimated.answer.step.memory.low
    assert row.status == ("PASS" if abs(predicted / measured - 1) <= 0.1 else "FAIL")
    assert measured > 4 * sum(parameter.numel() for parameter in here.base.module.parameters())


@pytest.mark.parametrize(("share", "status"), [(0.7, "FAIL"), (0.8, "PASS"), (1.3, "PASS"), (1.4, "FAIL")])
def test_time_of_a_step_is_compared_with_the_span_of_the_estimate(share, status):
    predicted = place().estimated.seconds
    row = checks.check_time(place(times=(share * predicted * n for n in range(8))))
    assert row.status == status, row.found
    assert row.numbers["measured_seconds"] == pytest.approx(share * predicted)


@pytest.mark.parametrize("has_trl", [True, False])
def test_losses_are_those_of_another_trainer(has_trl, monkeypatch):
    if has_trl:
        pytest.importorskip("trl")
    else:
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    row = checks.check_losses(place(n_rows=4))
    assert row.status == "PASS", row.found
    assert row.numbers["trainer"] == ("TRL" if has_trl else "transformers")
    assert row.numbers["largest_gap"] < 1e-4


@pytest.mark.parametrize(("shift", "status"), [(0.0, "PASS"), (0.1, "FAIL")])
def test_a_demo_with_the_difference_of_the_cpu_passes(shift, status):
    answer = json.loads((ROOT / "reports" / "demo" / "result.json").read_text())
    verdict = SimpleNamespace(**answer["verdict"])
    verdict.mean_difference += shift
    found = SimpleNamespace(verdict=verdict, cost=SimpleNamespace(total_seconds=1.0))
    row = check_demo(place(), search=lambda _: found)
    assert (row.status, row.numbers["label"]) == (status, "better"), row.found


def test_without_the_model_of_the_demo_its_check_is_skipped():
    def absent(_):
        raise ModelError("The demo's model is not installed.")

    assert check_demo(place(), search=absent).status == "SKIP"


def test_a_check_that_raises_fails_and_the_others_run():
    rows = list(
        check_gpu(
            place(), {"broken": lambda _: 1 / 0, "fine": lambda _: Row(check="fine", status="PASS", found="")}
        )
    )
    assert [(row.check, row.status) for row in rows] == [("broken", "FAIL"), ("fine", "PASS")]
    assert "ZeroDivisionError" in rows[0].found


def test_a_machine_without_a_gpu_gets_one_sentence_and_exit_code_1(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    done = CliRunner().invoke(app, ["info", "--gpu", "--json"])
    assert done.exit_code == 1
    assert "no GPU" in json.loads(done.stdout)["error"]["message"]


@pytest.mark.parametrize(("status", "exit_code"), [("PASS", 0), ("SKIP", 0), ("FAIL", 1)])
def test_the_table_comes_before_json_that_can_be_pasted(status, exit_code, monkeypatch):
    rows = [Row(check="waits", status=status, found="none")]
    monkeypatch.setattr(checks, "this_gpu", place)
    monkeypatch.setattr(checks, "check_gpu", lambda _: rows)
    done = CliRunner().invoke(app, ["info", "--gpu"])
    assert done.exit_code == exit_code, done.output
    table, _, pasted = done.stdout.partition("\n\n")
    assert table.splitlines()[1].split() == ["waits", status, "none"]
    assert json.loads(pasted)["checks"][0]["status"] == status
    assert json.loads(pasted)["gpu"]["name"] == "fake"

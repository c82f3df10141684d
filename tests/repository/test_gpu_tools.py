"""The GPU check itself, in tiny sizes on the CPU."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

SCRIPTS = Path(__file__).parents[2] / "tools" / "gpu"
sys.path.insert(0, str(SCRIPTS))
import gpu_check  # noqa: E402

CPU = gpu_check.Place(device=torch.device("cpu"), tiny=True)


@pytest.mark.parametrize("name", gpu_check.CHECKS)
def test_check_passes_in_tiny_sizes_on_the_cpu(name, capsys):
    (found,) = gpu_check.run(CPU, [name])
    assert found.status != "FAIL", found.numbers
    assert capsys.readouterr().out.startswith(f"{found.status}  {found.name}: ")


def test_a_check_that_raises_fails_and_the_others_run(monkeypatch):
    monkeypatch.setitem(gpu_check.CHECKS, "methods", lambda place: 1 / 0)
    broken, other = gpu_check.run(CPU, ["methods", "resumed"])
    assert (broken.status, broken.numbers["error"]) == ("FAIL", "ZeroDivisionError: division by zero")
    assert other.status == "PASS"

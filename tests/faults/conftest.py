"""A finished run of a tiny model, and copies of it to damage."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from toys.specs import run_spec

from autopeft import pipeline
from autopeft.cli.progress import Silent

SETTINGS = {"max_steps": 8, "batch_size": 8, "budget": "5%", "trials": 5, "seed": 3, "confirm_seeds": 2}
GIVEN = frozenset({"search.trials", "confirm.seeds"})


@pytest.fixture(scope="session")
def small_spec(model_dir, data_dir):
    """A function: folder and further settings -> the settings of a search of a few seconds."""

    def make(out: Path, **settings):
        return run_spec(**{"model": model_dir, "data": data_dir, "out": out} | SETTINGS | settings)

    return make


@pytest.fixture(scope="session")
def finished(small_spec, tmp_path_factory):
    """The folder of a finished run; nobody writes to it."""
    spec = small_spec(tmp_path_factory.mktemp("finished") / "run", methods="ia3,lora")
    return pipeline.search(spec, given=GIVEN, progress=Silent())[1]


@pytest.fixture
def run_copy(finished, tmp_path):
    """A copy of the finished run."""
    return Path(shutil.copytree(finished, tmp_path / "run"))

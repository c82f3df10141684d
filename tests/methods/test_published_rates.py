"""On Llama-3.2-3B's width, the range of a method holds the best learning rate that others published.

The numbers are of `peft`'s method comparison; rates of different scales compare as rate × scale.
"""

from __future__ import annotations

import csv
import importlib
from pathlib import Path

import pytest

from autopeft.plugins import discover

WIDTH = 3072  # hidden size of Llama-3.2-3B
DEFAULT_RATE = 1e-4  # of the comparison, for whoever gave no other
FILE = Path(__file__).parents[2] / "benchmarks" / "studies" / "published_learning_rates.csv"
METHODS = discover("autopeft.methods")


def published():
    """Method -> its runs as (accuracy, rate here, rate there), best first."""
    runs = {}
    with FILE.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["method"] not in METHODS:
                continue
            rate, scale = float(row["learning_rate"]), float(row["scale"])
            here = rate * scale / METHODS[row["method"]].scale(int(row["rank"]))
            runs.setdefault(row["method"], []).append((float(row["test_accuracy"]), here, rate))
    return {name: sorted(found, reverse=True) for name, found in runs.items()}


PUBLISHED = published()
# Where nothing but the comparison's default rate was tried, the rate means little unless it trained well.
PLAIN_LORA = 0.4831  # rank 32 at q and v, as most of the others
INFORMATIVE = [
    name
    for name, runs in PUBLISHED.items()
    if {rate for *_, rate in runs} != {DEFAULT_RATE} or runs[0][0] > PLAIN_LORA - 0.05
]


def test_eight_methods_have_an_informative_rate():
    assert sorted(PUBLISHED.keys() - set(INFORMATIVE)) == ["bitfit", "ln_tuning", "loha"]
    assert len(INFORMATIVE) == 8


@pytest.mark.parametrize("name", INFORMATIVE)
def test_the_best_published_rate_lies_in_the_range(name):
    low, high = METHODS[name].at_width(WIDTH).learning_rate_range
    (_, best, _), *_ = PUBLISHED[name]
    assert low <= best <= high


def test_the_rate_of_lora_is_good_on_24_published_language_models(monkeypatch):
    monkeypatch.syspath_prepend(FILE.parent)
    study = importlib.import_module("language_model_rates")
    found = study.regrets(study.rule_of(METHODS["lora"]))
    assert len({model for model, _ in found}) == 24
    assert study.mean_over_models(found) < 0.002  # nats per token; a rule of 2e-4 has 0.0031

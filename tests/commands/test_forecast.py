"""What a dry run reports of a search: its size, the modules that match, time, memory and price."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from toys.specs import run_spec
from typer.testing import CliRunner

from autopeft import commands, model
from autopeft.cli.app import app
from autopeft.commands.estimate import row_lengths
from autopeft.train import Pace
from autopeft.types import ModelSpec


def dry_run(model_dir, data_dir, *flags):
    arguments = ("search", "--model", model_dir, "--data", data_dir, "--budget", "20%", "--dry-run", *flags)
    return CliRunner().invoke(app, list(map(str, arguments)))


@pytest.fixture(scope="module")
def preview(model_dir, data_dir):
    flags = ("--max-steps", 20, "--gpu-price", 3.6, "--methods", "lora,ia3", "--device", "cpu", "--json")
    result = dry_run(model_dir, data_dir, *flags)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_time_spans_the_expected_one_and_the_price_is_that_of_its_hours(preview):
    forecast = preview["forecast"]
    seconds, price = forecast["seconds"], forecast["price"]
    assert 0 < seconds["low"] < seconds["expected"] < seconds["high"]
    assert price == pytest.approx(seconds["expected"] * 3.6 / 3600)
    assert seconds["expected"] > forecast["full_run_seconds"]


def test_memory_holds_weights_in_float32_and_what_the_dearest_method_trains(preview):
    forecast = preview["forecast"]
    assert forecast["dearest"] in ("lora", "ia3")
    setting = preview["setting"]
    assert forecast["peak_bytes"] > 4 * (setting["budget"]["base_params"] + setting["head_params"])


def test_memory_limit_below_what_the_process_takes_is_refused(model_dir, data_dir):
    result = dry_run(model_dir, data_dir, "--max-steps", 20, "--memory", "9MiB", "--device", "cpu")
    assert result.exit_code == 2, result.output
    assert "9.0 MiB" in result.stderr


def test_row_lengths_are_those_of_the_tokenizer_and_steps_those_of_the_epochs(model_dir, data_dir):
    rows = row_lengths(run_spec(model_dir, data_dir, batch_size=8, epochs=2), device="cuda")
    tokenizer = model.load_processor(ModelSpec(id=str(model_dir)))
    texts = [line.rsplit(",", 1)[0] for line in (data_dir / "train.csv").read_text().splitlines()[1:]]
    lengths = np.array([len(tokenizer(text)["input_ids"]) for text in texts])
    assert rows.longest <= lengths.max()
    assert lengths.mean() <= rows.typical_tokens <= lengths.max()
    n_train = rows.n_steps // 2 * 8
    assert n_train == len(texts)  # the rows of the search split are trained on later
    assert rows.n_rows == 8


def test_text_says_from_which_difference_on_a_verdict_distinguishes_plans(model_dir, data_dir):
    preview = commands.preview(run_spec(model_dir, data_dir, budget="20%", max_steps=8))
    n_rows = preview.setting.splits.confirm
    assert preview.n_confirm == n_rows and preview.least_differences is not None
    low, high = preview.least_differences
    # Of n pairs of which a share d differs, either plan being right as often, the mean has variance d / n.
    draws = np.random.default_rng(0).choice([-1, 0, 1], p=[0.05, 0.9, 0.05], size=(20_000, n_rows))
    assert np.quantile(np.abs(draws.mean(1)), 0.95) == pytest.approx(high, rel=0.15)
    assert low == pytest.approx(high * math.sqrt(0.02 / 0.1))


# A full run trains 40 steps of 8 rows and evaluates 40, each for half of a trained one; so does the test.
ROWS, EVALUATED = 40 * 8 + 20, 20


@pytest.mark.parametrize(("max_cost", "expected"), [(0.01, 2 + 2 * EVALUATED / ROWS), (2.6, 2.6)])
def test_a_limit_of_cost_bounds_the_cost_but_for_two_seeds_of_the_default(
    max_cost, expected, model_dir, data_dir
):
    settings = {"budget": "20%", "max_steps": 40, "batch_size": 8, "seeds": 2}
    limited = commands.preview(run_spec(model_dir, data_dir, max_cost=max_cost, **settings))
    assert limited.search_cost == pytest.approx(expected)
    assert commands.preview(run_spec(model_dir, data_dir, **settings)).search_cost > 4


@pytest.mark.parametrize("limit", [{"max_time": 0.01}, {"max_cost": 0.01}])
def test_no_limit_shortens_the_time_below_that_of_the_full_runs(limit, model_dir, data_dir):
    spec = run_spec(model_dir, data_dir, budget="20%", max_steps=40, seeds=3, **limit)
    preview = commands.preview(spec)
    seconds, full_run = preview.forecast.seconds, preview.forecast.full_run_seconds
    assert seconds.low == seconds.high > 3 * full_run and preview.setting.full_run_steps == 40


def test_the_steps_that_would_fit_take_the_time_that_was_asked_for(model_dir, data_dir, monkeypatch):
    # A fixed pace: other processes may slow down one timing and not the next.
    pace = Pace(step_seconds=0.01, example_seconds=0.001, run_seconds=0.1)
    monkeypatch.setattr("autopeft.commands.forecast.pace_of", lambda *_: pace)

    def forecast(**settings):
        spec = run_spec(model_dir, data_dir, budget="20%", batch_size=8, seeds=3, **settings)
        return commands.preview(spec).forecast

    usual = forecast(max_steps=4000)
    wish = 2 * usual.full_run_seconds  # less than the three full runs of the baseline
    shorter = forecast(max_steps=4000, max_time=wish)
    assert usual.fitting_steps is None and shorter.fitting_steps is not None
    assert forecast(max_steps=shorter.fitting_steps).seconds.expected == pytest.approx(wish, rel=0.1)


def test_a_long_search_starts_only_with_yes_and_leaves_no_folder_otherwise(
    model_dir, data_dir, tmp_path, monkeypatch
):
    monkeypatch.setattr("autopeft.commands.forecast.LONG_SECONDS", 0.1)
    words = ["search", "--model", str(model_dir), "--data", str(data_dir), "--budget", "20%"]
    words += ["--max-steps", "8", "--effort", "quick", "--gpu-price", "3600", "--out", str(tmp_path / "run")]
    refused = CliRunner().invoke(app, words)
    assert refused.exit_code == 2 and "--yes" in refused.stderr and not (tmp_path / "run").exists()
    (time,) = (line for line in refused.stderr.splitlines() if "  time    " in line)
    assert "price" in time and "--max-steps" in time
    assert CliRunner().invoke(app, [*words, "--yes"]).exit_code == 0

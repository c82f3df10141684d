"""The length of examples, the batch size and the epochs that a run derives where the user sets none."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from toys.words import CONTEXT

from autopeft.commands import run_search
from autopeft.data import Split
from autopeft.plugins import TaskDefaults
from autopeft.report.progress import Lines
from autopeft.setup.derive import (
    answer_length,
    batch_size,
    block_length,
    epochs,
    example_length,
    full_run,
    with_answer_length,
    with_batch_and_epochs,
    with_max_length,
)
from autopeft.store import RunDir
from autopeft.tasks._shared.usual import LABELLED
from autopeft.train import max_length_of
from autopeft.types import BudgetSpec, DataSpec, ModelSpec, OutputSpec, RunSpec, SearchSpec, TaskSpec

TEXT = TaskDefaults(
    max_length=(128, 2048), batch_size=(4, 16), epochs=(1, 3), step_tokens=4096, seen_examples=20_000
)


def derived(
    defaults: TaskDefaults, n_tokens: int, *, n_rows: int = 100, device: str = "cuda", **settings: Any
):
    """The settings that rows of `n_tokens` give, each with an answer of 20 tokens, and the decisions."""
    most = settings.pop("max_tokens", None)

    def encode(inputs: Any, labels: Any, tokenizer: Any, max_length: int) -> Any:
        return SimpleNamespace(examples=[{"input_ids": [5] * n_tokens}] * len(inputs), labels=labels)

    rows = Split(name="train", inputs=(("x",),) * n_rows, labels=(0,) * n_rows)
    base: Any = SimpleNamespace(max_tokens=most, tokenizer=None)
    task: Any = Made(defaults=defaults, encode=encode)
    spec, of_length = with_max_length(RunSpec(task=TaskSpec(**settings)), rows, base, task, device=device)
    examples: Any = SimpleNamespace(
        labels=[[-100, *[5] * 20]] * n_rows,
        lengths=np.full(n_rows, min(n_tokens, spec.task.max_length or n_tokens)),
        typical=np.arange(n_rows),
    )
    spec, of_steps = with_batch_and_epochs(spec, examples, defaults, device=device)
    task, of_answers = with_answer_length(task, examples)
    return spec.task, task.max_new_tokens, [*of_length, *of_steps, *of_answers]


@dataclass(frozen=True)
class Made:
    """What is read of a task."""

    defaults: TaskDefaults
    encode: Any
    peft_task_type: str = "CAUSAL_LM"
    max_new_tokens: int | None = None


PACKED = replace(TEXT, is_packed=True, max_length=(64, 1024))
SET = {"max_length": 64, "batch_size": 5, "epochs": 1.5}
NO_TOKENS = replace(LABELLED, max_length=None)


@pytest.mark.parametrize(
    ("asked", "rows", "settings", "n_steps"),
    [
        ({}, (TEXT, 200), (200, 8, 3.0), 36),
        ({}, (TEXT, 600), (600, 4, 3.0), 75),  # 4,096 tokens are 6 rows
        ({"max_tokens": 512}, (TEXT, 600), (512, 8, 3.0), 36),
        ({"device": "cpu"}, (TEXT, 400), (400, 4, 3.0), 75),  # 8 on a GPU
        ({"n_rows": 4}, (TEXT, 200), (200, 1, 3.0), 12),
        ({}, (PACKED, 500), (128, 8, 3.0), 36),  # about 200 blocks of 50,000 tokens
        ({"max_tokens": 64}, (PACKED, 500), (64, 8, 3.0), 36),
        ({}, (NO_TOKENS, 1), (None, 8, 20.0), 240),
        (SET, (TEXT, 200), (64, 5, 1.5), 30),
        ({**SET, "max_length": 600, "max_tokens": 512}, (TEXT, 200), (512, 5, 1.5), 30),
        ({"max_steps": 7}, (TEXT, 200), (200, 8, None), 7),
    ],
)
def test_request_and_rows_give_the_settings_of_a_full_run(asked, rows, settings, n_steps):
    task, _, decisions = derived(*rows, **asked)
    assert (task.max_length, task.batch_size, task.epochs) == settings
    assert full_run(task, asked.get("n_rows", 100))[1] == n_steps
    noted = {each.setting.removeprefix("task.") for each in decisions}
    assert noted == {name for name in SET if getattr(task, name) not in (None, asked.get(name))}


def test_answers_decide_how_many_tokens_are_generated():
    _, n_tokens, decisions = derived(replace(TEXT, max_new_tokens=(16, 1024)), 200, **SET)
    assert n_tokens == 32
    assert [each.setting for each in decisions] == ["task.max_new_tokens"]


@pytest.mark.parametrize(
    ("lengths", "room", "expected"),
    [
        ([60, 90], None, 128),  # short rows are allowed what they always were
        ([200] * 99 + [2000], None, 200),  # one row in a hundred is cut
        ([201] * 99 + [2000], None, 208),  # a multiple of eight
        ([3000] * 49 + [100] * 51, None, 512),  # the task's limit
        ([1500] * 100, None, 1504),  # which gives way where it would cut more than half of the rows
        ([3000] * 100, None, 2048),  # up to four times the limit
        ([3000] * 100, 300, 300),  # the model's limit
        ([60, 90], 64, 64),
    ],
)
def test_length_of_examples_is_a_high_percentile_within_limits(lengths, room, expected):
    value, rule = example_length(lengths, n_rows=len(lengths), limits=(128, 512), max_tokens=room)
    n_cut = sum(length > expected for length in lengths)
    assert value == expected
    assert (f"{n_cut} of {len(lengths)} train rows are cut" in rule) == (n_cut > 0)


@pytest.mark.parametrize("limit", [CONTEXT - 1, CONTEXT, 10**30])
def test_rows_are_as_long_as_model_and_tokenizer_take(make_base, limit):
    base = make_base("bert")
    base.tokenizer = SimpleNamespace(model_max_length=limit)
    assert max_length_of(base) == min(limit, CONTEXT)


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ([3] * 50, 16),  # the least
        ([64] * 99 + [500], 80),  # a quarter more than the 99th percentile; one in a hundred is longer
        ([65] * 100, 88),  # 81.25 in steps of eight
        ([2000] * 9, 1024),  # the most
    ],
)
def test_answers_are_generated_to_a_quarter_more_than_the_true_ones(lengths, expected):
    value, rule = answer_length(lengths, limits=(16, 1024))
    assert value == expected
    assert f"longest completion has {max(lengths):,}" in rule


@pytest.mark.parametrize("n_tokens", [100, 12_000, 13_000, 60_000, 110_000, 10**7])
def test_blocks_are_as_long_as_leaves_200_of_them(n_tokens):
    value, _ = block_length(n_tokens, limits=(64, 1024))
    assert value in (64, 128, 256, 512, 1024)
    assert n_tokens // value >= 200 or value == 64
    assert n_tokens // (2 * value) < 200 or value == 1024


@pytest.mark.parametrize(("n_rows", "expected"), [(5000, 32), (256, 32), (255, 16), (20, 2), (3, 1)])
def test_batch_of_labelled_rows_is_32_but_for_a_tiny_dataset(n_rows, expected):
    assert batch_size([50] * n_rows, n_train=n_rows, defaults=LABELLED, share=0.5)[0] == expected


def test_epochs_fall_with_the_size_of_the_data():
    values = [epochs(n, defaults=TEXT)[0] for n in (10, 6_666, 6_667, 10_000, 10_001, 10**6)]
    assert values == [3, 3, 2, 2, 1, 1]
    values = [epochs(n, defaults=LABELLED)[0] for n in (10, 500, 1000, 3_333, 10**6)]
    assert values == [20, 20, 10, 3, 3]


@pytest.fixture
def spec(model_dir, data_dir, tmp_path):
    return RunSpec(
        model=ModelSpec(id=str(model_dir)),
        data=DataSpec(source=str(data_dir)),
        budget=BudgetSpec(requested="20%"),
        task=TaskSpec(max_steps=2),
        search=SearchSpec(effort="quick", methods=("lora",)),
        output=OutputSpec(out=str(tmp_path / "run")),
    )


def test_run_keeps_derived_settings_and_a_resumed_run_still_shows_their_rules(spec):
    result, path = run_search(spec, progress=Lines())
    written = RunDir.open(path).read_spec().task
    assert (written.max_length, written.batch_size, written.epochs) == (CONTEXT, 8, None)
    assert written == result.spec.task
    resumed, _ = run_search(RunSpec(output=spec.output), resume=True, progress=Lines())
    assert resumed.setting.decisions == result.setting.decisions != ()
    report = (path / "report.md").read_text(encoding="utf-8")
    assert f"--max-length, derived | {CONTEXT}: all " in report
    assert json.loads((path / "result.json").read_text())["settings"]["task"]["batch_size"] == 8

"""A metric of one's own: a function scores the written texts, and runs only if the user named it."""

from __future__ import annotations

import pytest
from toys.bases import toy_base
from toys.tasks import with_end_of_text

from autopeft.errors import SpecError, UnknownNameError
from autopeft.plugins import LabelSpace, allow_own_function, discover, own_function
from autopeft.setup.look import require_known_metric
from autopeft.store import resolve_settings
from autopeft.types import TaskSpec

TASKS = discover("autopeft.tasks")
MODULE = """
CALLS = []


def overlap(written, references, prompts):
    CALLS.append((written, references, prompts))
    return [len(set(w.split()) & set(r.split())) for w, r in zip(written, references)]


def few(written, references):
    return [1.0]


value = 3
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """The name of a module in the working directory that no other test has imported."""
    name = f"own_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


def evaluated(tokenizer, metric):
    words = with_end_of_text(tokenizer)
    task = TASKS["text-generation"].fitted(TaskSpec(metric=metric), LabelSpace(kind="completion"), words)
    made = task.encode([("the food was",), ("a film",)], ["good food", "bad"], words, 32)
    batch = task.collate(made.examples, made.labels, 0)
    return task, task.evaluate(toy_base("llama-lm").module, iter([batch]))


def test_the_function_gets_texts_references_and_prompts_and_its_mean_is_the_metric(module, tokenizer):
    allow_own_function(f"{module}:overlap")
    task, evaluation = evaluated(tokenizer, f"{module}:overlap")
    ((written, references, prompts),) = own_function(f"{module}:overlap").__globals__["CALLS"]
    assert (references, prompts) == (["good food", "bad"], ["the food was", "a film"])
    expected = [len({*w.split()} & {*r.split()}) for w, r in zip(written, references, strict=True)]
    assert evaluation.example_scores == tuple(expected)
    assert evaluation.metric == sum(expected) / 2
    facts = task.metric
    assert (facts.greater_is_better, facts.is_share, facts.label) == (True, False, "overlap")


def test_scores_that_are_not_one_a_text_are_refused(module, tokenizer):
    allow_own_function(f"{module}:few")
    with pytest.raises(SpecError, match="2"):
        evaluated(tokenizer, f"{module}:few")


def test_code_that_a_file_names_runs_only_if_the_user_names_it_too(module, tmp_path):
    name = f"{module}:overlap"
    config = tmp_path / "run.yaml"
    config.write_text(f"task:\n  metric: '{name}'\n")
    settings = {"config": config, "env": {}}
    spec = resolve_settings(flags={}, **settings)
    with pytest.raises(SpecError, match=f"--metric {name}"):
        own_function(spec.task.metric)
    resolve_settings(flags={"task.metric": name}, **settings)
    assert callable(own_function(name))


@pytest.mark.parametrize(("function", "fault"), [("lost", "AttributeError"), ("value", "function")])
def test_names_that_lead_to_no_function_are_refused(module, function, fault):
    allow_own_function(f"{module}:{function}")
    with pytest.raises(SpecError, match=fault):
        own_function(f"{module}:{function}")


def test_tasks_that_write_no_text_take_no_function():
    require_known_metric(TASKS["text2text-generation"], "module:score")
    with pytest.raises(UnknownNameError, match="module:score"):
        require_known_metric(TASKS["text-classification"], "module:score")

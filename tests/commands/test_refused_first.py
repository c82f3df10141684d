"""What can be known wrong by its words or files alone is refused before data and model are read."""

from __future__ import annotations

import pytest
from toys.specs import run_spec

from autopeft import commands
from autopeft.errors import DataError, ModelError, SpecError, UnknownNameError
from autopeft.plugins import discover
from autopeft.setup.build import prepare
from autopeft.setup.look import require_known_metric

TASKS = discover("autopeft.tasks")
OF_LABELS = (
    "accuracy balanced-accuracy macro-f1 micro-f1 matthews exact-match "
    "pearson spearman mean-absolute-error mean-squared-error"
)
OF_TEXTS = "loss token-accuracy exact-match"
ALLOWED = {
    "image-classification": OF_LABELS,
    "text-classification": OF_LABELS,
    "text-generation": OF_TEXTS,
    "text2text-generation": OF_TEXTS,
    "token-classification": "entity-f1 token-accuracy",
}


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"metric": "Accuracy"}, UnknownNameError, "accuracy"),
        ({"device": "gpu"}, ModelError, "gpu"),
        ({"device": "cuda:99"}, ModelError, "cuda:99"),
        ({"model": ""}, SpecError, "--model"),
        ({"revision": "v1"}, ModelError, "v1"),
        ({"model": "./gone"}, ModelError, "gone"),
        ({}, DataError, "absent.csv"),  # the check of this test itself
    ],
)
def test_words_are_refused_before_the_data_are_read(settings, error, words, model_dir, tmp_path):
    with pytest.raises(error, match=words):
        prepare(run_spec(**{"model": model_dir, "data": tmp_path / "absent.csv", **settings}))


@pytest.mark.parametrize("content", [None, "{", "rank: 8"])
def test_a_file_of_the_user_is_refused_before_the_data_are_read(content, model_dir, tmp_path):
    path = tmp_path / "mine.yaml"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    spec = run_spec(model_dir, tmp_path / "absent.csv", baseline=path)
    with pytest.raises(SpecError, match=r"mine\.yaml"):
        commands.preview(spec)


@pytest.mark.parametrize("name", TASKS)
def test_a_metric_is_refused_beforehand_only_where_no_labels_allow_it(name):
    every = {*discover("autopeft.metrics"), *(metric for each in TASKS.values() for metric in each.metrics)}
    for metric in sorted(every | {"foo"}):
        if metric in ALLOWED[name].split():
            require_known_metric(TASKS[name], metric)
        else:
            with pytest.raises(UnknownNameError):
                require_known_metric(TASKS[name], metric)
    require_known_metric(TASKS[name], None)

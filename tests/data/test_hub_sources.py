"""What a dataset of the hub lacks; the hub's answers are faked."""

from __future__ import annotations

import datasets
import pytest

from autopeft.data import load
from autopeft.errors import DataError
from autopeft.types import DataSpec

NO_NAME = ValueError("Config name is missing.\nPick one of: ['a', 'b']\nExample of usage:\n\t`x`")


def no_config(*_, **__):
    raise NO_NAME


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (
            no_config,
            r"\(Config name is missing\. Pick .*: \['a', 'b'\]\); check .*--data some/corpus:NAME",
        ),
        (lambda *_, **__: {"test": None}, r"no train part, only test; save the one to learn from as a file"),
    ],
)
def test_a_missing_configuration_or_train_split_is_told_in_one_sentence(monkeypatch, answer, words):
    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", lambda *_, **__: None)
    monkeypatch.setattr(datasets, "load_dataset", answer)
    with pytest.raises(DataError, match=words) as caught:
        load(DataSpec(source="some/corpus"), seed=0)
    assert "\n" not in str(caught.value)


def test_a_configuration_stands_behind_the_id(monkeypatch):
    asked = []
    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", lambda _, name, **__: asked.append(name))
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **named: asked.append((args, named)) or {})
    with pytest.raises(DataError, match="some/corpus:en"):
        load(DataSpec(source="some/corpus:en"), seed=0)
    assert asked == ["some/corpus", (("some/corpus",), {"name": "en"})]

"""Toy models on disk that the tests of quantized models share."""

from __future__ import annotations

import functools

import pytest


@pytest.fixture(scope="session")
def saved(tmp_path_factory, tokenizer):
    """A function: architecture -> the folder of such a toy, which no test changes."""

    from toys.quantized import save_toy  # skips where bitsandbytes is missing

    @functools.cache
    def save(architecture):
        return save_toy(architecture, tmp_path_factory.mktemp("saved") / architecture, tokenizer)

    return save

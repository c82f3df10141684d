"""The variable by which torch lets the memory of GPUs grow in place."""

from __future__ import annotations

import os
import platform
import sys

import pytest

from autopeft.cli import environment

SETTING = "expandable_segments:True"


@pytest.fixture
def start(monkeypatch):
    """A function: what a command sets on a machine, of which everything is usual but what is passed."""

    def started(*, system="linux", kernel="6.8.0-generic", torch="2.9.1", given=()):
        monkeypatch.setattr(sys, "platform", system)
        monkeypatch.setattr(platform, "release", lambda: kernel)
        monkeypatch.setattr(environment, "version", lambda name: torch)
        variables = dict.fromkeys(given, "max_split_size_mb:64")
        monkeypatch.setattr(os, "environ", dict(variables))
        environment.expand_segments()
        return {name: value for name, value in os.environ.items() if name not in variables}

    return started


def test_segments_grow_on_linux_with_gpus_of_nvidia(start):
    assert start() == {"PYTORCH_CUDA_ALLOC_CONF": SETTING}


@pytest.mark.parametrize(
    "machine",
    [
        {"system": "win32"},
        {"kernel": "5.15.167.4-microsoft-standard-WSL2"},
        {"torch": "2.9.1+cpu"},
        {"given": ["PYTORCH_CUDA_ALLOC_CONF"]},
    ],
    ids=str,
)
def test_nothing_is_set_where_it_fails_or_the_user_has_chosen(machine, start):
    assert start(**machine) == {}

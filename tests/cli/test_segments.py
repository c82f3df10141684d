"""The variable by which torch lets the memory of GPUs grow in place."""

from __future__ import annotations

import os
import platform
import sys

import pytest

from autopeft.cli.environment import expand_segments


@pytest.mark.parametrize(
    ("system", "kernel", "given", "is_set"),
    [
        ("linux", "6.8.0-generic", {}, True),
        ("win32", "", {}, False),
        ("linux", "5.15.167.4-microsoft-standard-WSL2", {}, False),
        ("linux", "6.8.0-generic", {"PYTORCH_ALLOC_CONF": "max_split_size_mb:64"}, False),
    ],
)
def test_segments_grow_on_linux_unless_the_user_has_chosen(system, kernel, given, is_set, monkeypatch):
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(platform, "release", lambda: kernel)
    monkeypatch.setattr(os, "environ", dict(given))
    expand_segments()
    assert (os.environ.get("PYTORCH_CUDA_ALLOC_CONF") == "expandable_segments:True") == is_set

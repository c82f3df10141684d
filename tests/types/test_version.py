"""A run notes the version of autopeft: it has to tell what was released from what was not."""

from __future__ import annotations

import re
from pathlib import Path

from packaging.version import Version

from autopeft.types import VERSION

CHANGELOG = Path(__file__).parents[2] / "CHANGELOG.md"


def test_what_is_not_released_has_a_version_above_every_release():
    text = CHANGELOG.read_text(encoding="utf-8")
    unreleased = text.split("## [Unreleased]\n")[1].split("\n## [")[0].strip()
    releases = [Version(name) for name in re.findall(r"^## \[(\d[^]]*)\]", text, re.MULTILINE)]
    assert len(releases) >= 2
    assert not unreleased or Version(VERSION) > max(releases)

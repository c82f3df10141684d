"""The changelog begins with the version that a run records."""

from __future__ import annotations

import re
from pathlib import Path

from packaging.version import Version

from autopeft.types import VERSION

CHANGELOG = Path(__file__).parents[2] / "CHANGELOG.md"


def test_changelog_begins_with_the_version_of_the_package():
    names = re.findall(r"^## (\S+)", CHANGELOG.read_text(encoding="utf-8"), re.MULTILINE)
    assert names[0] == Version(VERSION).base_version

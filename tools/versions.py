"""Which versions of the dependencies the tests were run with.

    python tools/versions.py

writes the table into `docs/compatibility.md`: the oldest versions and those of a hosted notebook from the
constraint files in `.github`, and the newest ones from the environment that runs this script.
"""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path

from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "compatibility.md"
START, END = "<!-- versions -->", "<!-- /versions -->"


def pins(name: str) -> dict[str, str]:
    """Read the versions of a constraint file, by package."""
    text = (ROOT / ".github" / f"{name}.txt").read_text(encoding="utf-8")
    return {
        canonicalize_name(package): version for package, version in re.findall(r"^(\S+)==(\S+)$", text, re.M)
    }


def newest() -> dict[str, str]:
    """Read the installed versions of the packages of the oldest set."""
    return {name: metadata.version(name).partition("+")[0] for name in pins("oldest")}


def table(latest: dict[str, str]) -> str:
    """Write the table of the page: a row for each package, `latest` being its last column."""
    oldest, notebook = pins("oldest"), pins("notebook")
    lines = ["| package | oldest | hosted notebook | newest |", "| --- | --- | --- | --- |"]
    lines += [f"| `{name}` | {oldest[name]} | {notebook.get(name, '')} | {latest[name]} |" for name in oldest]
    return "\n".join(lines)


def main() -> None:
    """Write the table into the page."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(START)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{START}\n\n{table(newest())}\n\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()

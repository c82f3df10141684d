"""Which training tools pip can install into one environment with autopeft.

    python tools/compatibility.py

writes the table into `docs/compatibility.md`; with `--check` it only prints it. pip resolves this checkout
with the newest release of each tool in a fresh virtual environment. It is a dry run: nothing is installed.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from itertools import product
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "compatibility.md"
TOOLS = ("unsloth", "axolotl", "llamafactory", "oumi", "ms-swift", "trl", "sentence-transformers")
SHOWN = ("transformers", "peft", "datasets")
RECORDED = (*SHOWN, "torch", "huggingface-hub")
TWO = "your-own-trainer.md#a-trainer-in-another-environment"
LIMIT_SECONDS = 600  # heuristic: ten times the slowest tool, axolotl


@dataclass(frozen=True)
class Row:
    """The answer for one tool: the versions that pip takes, or why it takes none."""

    tool: str
    version: str
    resolves: bool
    versions: Mapping[str, str]
    reason: str = ""

    def cells(self) -> tuple[str, ...]:
        """Return the cells of a row."""
        chosen = ", ".join(f"{name} {self.versions[name]}" for name in SHOWN if name in self.versions)
        if self.resolves:
            return f"`{self.tool}`", self.version, "yes", chosen
        return f"`{self.tool}`", self.version, "no", f"{self.reason}. [Use two environments]({TWO})"


class Pip:
    """The pip of a virtual environment, which answers questions about the package index."""

    def __init__(self, python: str, folder: Path) -> None:
        subprocess.run([python, "-m", "venv", str(folder)], check=True)
        self.folder = folder
        self.released: dict[str, list[str]] = {}
        self.ask("install", "--upgrade", "pip")

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run pip under the time limit; `timeout` also ends the builds of sdists that pip has started."""
        pip = [str(self.folder / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", *arguments]
        return subprocess.run(["timeout", str(LIMIT_SECONDS), *pip], capture_output=True, text=True)

    def ask(self, *arguments: str) -> str:
        """Return what pip prints; a failure ends the program with pip's own message."""
        done = self.run(*arguments)
        if done.returncode:
            raise SystemExit(f"pip {' '.join(arguments)} failed:\n{done.stderr}")
        return done.stdout

    def releases(self, name: str) -> list[str]:
        """Return the releases of a package that this Python can use; pre-releases are left out."""
        if name not in self.released:
            self.released[name] = json.loads(self.ask("index", "versions", "--json", name))["versions"]
        return self.released[name]

    def metadata(self, source: str) -> dict[str, Any]:
        """Return the metadata of a folder or of a tool's newest release, and pip's environment."""
        options = ("--quiet", "--dry-run", "--no-deps", "--ignore-requires-python", "--report", "-")
        report = json.loads(self.ask("install", *options, source))
        return {**report["install"][0]["metadata"], "environment": report["environment"]}

    def resolve(self, requirement: str) -> tuple[dict[str, str], str]:
        """Return the versions that pip takes for the checkout and a requirement, or none and the reason."""
        report = self.folder / "report.json"
        # Without fast-deps, pip downloads a wheel whose metadata the index does not serve: torch has 0.5 GB.
        options = ("--dry-run", "--use-feature=fast-deps", "--report", str(report))
        done = self.run("install", *options, str(ROOT), requirement)
        if done.returncode == 124:
            return {}, f"pip found no answer in {LIMIT_SECONDS // 60} minutes"
        if done.returncode:
            return {}, reason_of_pip(done.stdout + done.stderr)
        packages = [each["metadata"] for each in json.loads(report.read_text(encoding="utf-8"))["install"]]
        return {canonicalize_name(package["name"]): package["version"] for package in packages}, ""


def main() -> None:
    """Resolve each tool, print the rows, and write them into the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--check", action="store_true", help="print the table and write nothing")
    parser.add_argument("--json", action="store_true", help="print JSON, with further versions")
    parser.add_argument("--python", default=sys.executable, help="the interpreter that pip resolves for")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        pip = Pip(options.python, Path(folder))
        checkout = pip.metadata(str(ROOT))
        rows = [resolve(tool, pip, checkout["requires_dist"]) for tool in TOOLS]
    table = markdown(rows, python=checkout["environment"]["python_full_version"], day=date.today())
    print(json.dumps([asdict(row) for row in rows], indent=2) if options.json else table)
    if not options.check:
        PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), table), encoding="utf-8")


def resolve(tool: str, pip: Pip, ours: Sequence[str]) -> Row:
    """Resolve the newest release of one tool; a conflict with our own requirements needs no run of pip."""
    metadata = pip.metadata(tool)
    version, environment = metadata["version"], metadata["environment"]
    python, needed = environment["python_full_version"], metadata.get("requires_python", "")
    if not SpecifierSet(needed).contains(python):
        return Row(tool, version, False, {}, f"{tool} {version} needs Python {needed}; this is {python}")
    reason = conflict(ours, metadata.get("requires_dist", []), pip.releases, environment=environment)
    if reason:
        return Row(tool, version, False, {}, f"{tool} {version} {reason}")
    versions, reason = pip.resolve(f"{tool}=={version}")
    recorded = {name: versions[name] for name in RECORDED if name in versions}
    return Row(tool, version, not reason, recorded, reason)


def conflict(
    ours: Sequence[str],
    theirs: Sequence[str],
    releases: Callable[[str], Iterable[str]],
    *,
    environment: Mapping[str, str] | None = None,
) -> str:
    """Return the requirements on shared dependencies that no release meets; "" if each has a release."""
    own, other = bounds(ours, environment or {}), bounds(theirs, environment or {})
    our_needs, their_needs = [], []
    for name in own:
        if name not in other or any_meets(own[name] & other[name], releases(name)):
            continue
        pairs = product(own[name], other[name])
        ends = (pair for pair in pairs if not any_meets(SpecifierSet(f"{pair[0]},{pair[1]}"), releases(name)))
        mine, its = next(ends, (own[name], other[name]))
        our_needs.append(f"{name}{mine}")
        their_needs.append(f"{name}{its}")
    if not our_needs:
        return ""
    return f"needs {' and '.join(their_needs)}; autopeft needs {' and '.join(our_needs)}"


def any_meets(specifiers: SpecifierSet, releases: Iterable[str]) -> bool:
    """Report whether a release meets all specifiers; pre-releases are left out."""
    return any(True for _ in specifiers.filter(releases, prereleases=False))


def bounds(requirements: Iterable[str], environment: Mapping[str, str]) -> dict[str, SpecifierSet]:
    """Merge the requirements on each package that apply without extras."""
    merged: dict[str, SpecifierSet] = {}
    for requirement in map(Requirement, requirements):
        if not requirement.marker or requirement.marker.evaluate({**environment, "extra": ""}):
            name = canonicalize_name(requirement.name)
            merged[name] = merged.get(name, SpecifierSet()) & requirement.specifier
    return merged


def reason_of_pip(output: str) -> str:
    """Return the first two requirements of a conflict that pip names, or its last line on an error."""
    named = re.findall(r"^ +(\S+) (\S+) depends on (.+)$", output, re.MULTILINE)[:2]
    errors = [line.removeprefix("ERROR: ") for line in output.splitlines() if line.startswith("ERROR: ")]
    return "; ".join(f"{name} {version} needs {need}" for name, version, need in named) or errors[-1]


def markdown(rows: Iterable[Row], *, python: str, day: date) -> str:
    """Return the table of the page, with its date and Python version."""
    header = ("tool", "newest release", "one environment", "versions that pip takes, or the reason")
    lines = [header, ("---",) * len(header), *(row.cells() for row in rows)]
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    return f"{table}\n\nResolved on {day} for Python {python}."


def filled(page: str, table: str) -> str:
    """Replace what lies between the markers of the page."""
    start, end = "<!-- tools -->", "<!-- /tools -->"
    before, _, rest = page.partition(start)
    assert end in rest, f"{PAGE.name} has no {start} … {end}"
    return f"{before}{start}\n\n{table}\n\n{end}{rest.partition(end)[2]}"


if __name__ == "__main__":
    main()

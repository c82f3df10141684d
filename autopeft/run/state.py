"""What the measurements of a run depend on: noted at its start, compared where it resumes."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import peft
import torch
import transformers

from autopeft.errors import NO_ROOM, RunDirError, TrainingError
from autopeft.records import SETTINGS, VERSION, Arm, Plan, digest_of, to_json
from autopeft.run.prepare import Prepared
from autopeft.run.resume import CHANGEABLE
from autopeft.space import Space
from autopeft.store import START, RunDir, damaged, read_checked, save_processor, sha256_of, write_checked

_BASE, _DATA = "base_sha256", "data_fingerprint"
_LABEL_NAMES = frozenset({"config.id2label", "config.label2id"})  # which are as long as there are labels
_DEVICE = "device"
_MISSING = "missing"
_SHOWN = 3  # differences that an error names; chosen by hand
# Settings that may differ between a start and its resumption: those that the user may change, and what the
# fingerprint of the weights covers.
_FREE = CHANGEABLE | {"model.revision"}
# Of configs and tokenizers: they name a place or a version, or transformers fills them in while loading.
_VOLATILE = frozenset(
    "_name_or_path name_or_path architectures transformers_version dtype torch_dtype truncation "
    "padding".split()
)


def note_start(
    run: RunDir, prepared: Prepared, *, requested: Space, user_plan: tuple[Arm, Plan] | None
) -> None:
    """Store what the measurements depend on, or compare it; RunDirError names what differs."""
    path, content = run.state / START, to_json(prepared.spec)
    now = {
        **loaded_facts(prepared),
        **{name: content[name.split(".")[0]][name.split(".")[1]] for name in SETTINGS if name not in _FREE},
        "search space": digest_of(requested.model_dump(mode="json")),
        "plan of --baseline": digest_of(None if user_plan is None else to_json(user_plan[1])),
    }
    if path.is_file():
        before = _read_start(run)
        differing = [name for name in sorted(before.keys() | now) if before.get(name) != now.get(name)]
        if differing:
            raise RunDirError(
                f"{run.path} was measured with {_listed(differing, before, now, whose='now it is')}; put it "
                "back as it was, or pass another --out."
            )
    elif run.is_begun:
        raise RunDirError(
            f"{path} is missing, so that nothing tells whether data and model are those of the measurements; "
            "put it back, or start again with another --out."
        )
    else:
        write_checked(path, now)


def check_base(run: RunDir, prepared: Prepared) -> None:
    """Raise TrainingError where the weights of the base model are no longer those of the run's start.

    After each trial a part of them is compared; this reads all of them.
    """
    if prepared.base.sha256() != _read_start(run)[_BASE]:
        raise TrainingError(
            f"The weights of {prepared.base.name} changed during the run, so that its measurements cannot be "
            "trusted; this is a bug, please report it, and start again with another --out."
        )


def _read_start(run: RunDir) -> dict[str, Any]:
    path, remedy = run.state / START, "start again with another --out"
    content = read_checked(path, remedy=remedy)
    if not isinstance(content, dict) or _BASE not in content:
        raise damaged(path, remedy=remedy)
    return content


def facts_for_workers(run: RunDir, prepared: Prepared) -> dict[str, Any]:
    """The `loaded_facts` of a search, with the digest of weights that its start was noted or compared with.

    A full digest takes 21 seconds for 7 billion weights, and `check_base` makes one at the end.
    """
    noted = _read_start(run)[_BASE] if (run.state / START).is_file() else None
    return loaded_facts(prepared, base_sha256=noted)


def start_sha256(run: RunDir) -> str | None:
    """The checksum of what a run noted at its start; None where it is not there."""
    path = run.state / START
    return sha256_of(path) if path.is_file() else None


def differences(before: Mapping[str, Any], now: Mapping[str, Any], *, whose: str) -> str:
    """What differs between the `loaded_facts` of two processes, in words; empty where nothing does.

    `whose` are the facts of `now`, in words.
    """
    names = [name for name in sorted(before.keys() | now) if before.get(name) != now.get(name)]
    return _listed(names, before, now, whose=whose)


def _listed(names: Sequence[str], before: Mapping[str, Any], now: Mapping[str, Any], *, whose: str) -> str:
    """The first differences in words.

    Other data alone where they differ, or the settings that make them so: the labels decide the head, and
    with it the weights and the config.
    """
    if _DATA in names and not (names := [name for name in names if name in SETTINGS]):
        seen = f"{_DATA} {before.get(_DATA, _MISSING)}, {whose} {now.get(_DATA, _MISSING)}"
        return f"{seen} (other rows, labels or splits in its data files)"
    others = [name for name in names if name not in _LABEL_NAMES]
    names = others if len(others) == len(names) else [*others, "label names"]
    pairs = [
        f"{name} {before.get(name, _MISSING)}, {whose} {now.get(name, _MISSING)}"
        if name != "label names"
        else "other label names of the model"
        for name in names[:_SHOWN]
    ]
    more = f" and {len(names) - _SHOWN} more differences" if len(names) > _SHOWN else ""
    return "; ".join(pairs) + more


def loaded_facts(prepared: Prepared, *, base_sha256: str | None = None) -> dict[str, Any]:
    """Fingerprints of data and model, the model's config, the kind of device, and versions, by name.

    `base_sha256` is the digest of the weights where it is known; None reads them all.
    """
    config = json.loads(cast(Any, prepared.base.module.config).to_json_string(use_diff=False))
    return {
        _DATA: prepared.data.fingerprint,
        _BASE: base_sha256 or prepared.base.sha256(),
        **{f"config.{name}": value for name, value in config.items() if name not in _VOLATILE},
        **dict(_processor_files(prepared.base.tokenizer)),
        _DEVICE: prepared.base.device.type,
        "autopeft": VERSION,
        "peft": peft.__version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def _processor_files(processor: Any) -> Iterator[tuple[str, str]]:
    """A fingerprint of each file that a tokenizer or image processor saves, such as `tokenizer.json`."""
    if not hasattr(processor, "save_pretrained"):
        return
    try:
        with tempfile.TemporaryDirectory(prefix="autopeft-", ignore_cleanup_errors=True) as folder:
            save_processor(processor, folder)
            for path in sorted(Path(folder).rglob("*")):
                if path.is_file():
                    yield path.relative_to(folder).as_posix(), _file_digest(path)
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        raise RunDirError(
            f"There is no room for the files of the tokenizer in {tempfile.gettempdir()}; free some, or set "
            "TMPDIR to a larger folder."
        ) from error


def _file_digest(path: Path) -> str:
    """16 hexadecimal digits over a file's content; of a JSON object without what may change by itself."""
    if path.suffix == ".json" and isinstance(content := json.loads(path.read_bytes()), dict):
        kept = {name: value for name, value in content.items() if name not in _VOLATILE}
        return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:16]
    return sha256_of(path)[:16]

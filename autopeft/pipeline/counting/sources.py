"""Read adapter configs as `peft` wrote them, and say what of them matches nothing."""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import peft
from peft import PeftConfig, PeftType
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.utils.constants import DUMMY_TARGET_MODULES

from autopeft.errors import SiteError, SpecError, UnknownNameError
from autopeft.pipeline.counting.values import faults

_WRITTEN_BY_PEFT = "it must be the adapter_config.json that peft wrote"
_ALL = ("all-linear", DUMMY_TARGET_MODULES)  # words of peft's that stand for modules
_SHORT = 80  # of a pattern that names every site one by one; chosen by hand
_HEADS = ("classifier", "score")  # peft writes both into every config of a classifier


def is_adapter(path: Path) -> bool:
    """Whether a path is an adapter config rather than a plan; refuses a folder that holds neither.

    Raises:
        SpecError: A folder without a plan, a config or an order.
    """
    if not path.is_dir():
        return path.suffix == ".json"
    if (path / "adapter_config.json").is_file() or (path / "order.json").is_file():
        return True
    if not any((path / name).is_file() for name in ("plan.yaml", "best/plan.yaml")):
        raise SpecError(
            f"{path} holds no plan.yaml, best/plan.yaml, adapter_config.json or order.json; "
            "pass a plan, the folder of a finished run, or the folder of an adapter."
        )
    return False


def config_folders(path: Path) -> list[Path]:
    """The folders of the configs, in the order in which they are attached.

    Raises:
        SpecError: A file of another name, or an order that lists no folders.
    """
    if not path.is_dir():
        if path.name != "adapter_config.json":
            raise SpecError(f"{path} is no adapter config; peft calls that file adapter_config.json.")
        return [path.parent]
    if (path / "order.json").is_file():
        order = _read_json(path / "order.json")
        if not isinstance(order, list) or not order or not all(isinstance(name, str) for name in order):
            raise SpecError(f"{path / 'order.json'} holds {order!r}; it should list the folders beside it.")
        if len(set(order)) < len(order):
            raise SpecError(f"{path / 'order.json'} holds {order!r}; it should list each folder once.")
        return [path / name for name in order]
    return [path]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """A config as `peft` reads it, and what its file says."""

    config: PeftConfig
    content: dict[str, Any]


def read_config(folder: Path) -> Source:
    """The config in a folder.

    Raises:
        UnknownNameError: A type that this `peft` does not know.
        SpecError: Unreadable, or values that `peft` refuses.
    """
    file = folder / "adapter_config.json"
    content = _read_json(file)
    if not isinstance(content, dict) or "peft_type" not in content:
        held = "no peft_type" if isinstance(content, dict) else f"a {type(content).__name__}, no object"
        raise SpecError(f"{file} holds {held}; {_WRITTEN_BY_PEFT}.")
    kind, known = content["peft_type"], [member.value for member in PeftType]
    if kind not in known:
        if str(kind).upper() in known:
            raise SpecError(f"{file} has the peft_type {kind!r}; peft writes it in capitals.")
        raise UnknownNameError(f"peft_type (in {file})", str(kind), known)
    if kind == PeftType.XLORA:
        raise SpecError(f"{file} is X-LoRA, which mixes other adapters by a gate; count those one by one.")
    odd = faults(content, PEFT_TYPE_TO_CONFIG_MAPPING[kind])
    if odd:
        raise SpecError(f"{file} cannot be meant so: {'; '.join(odd)}; correct it.")
    try:
        config = PeftConfig.from_pretrained(str(folder))
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        said = str(error).strip().splitlines()[0].rstrip(".")
        raise SpecError(f"{file} is no config that peft {peft.__version__} reads: {said}.") from error
    config.inference_mode = False
    return Source(config=config, content=content)


def unknown_keys(source: Source) -> list[str]:
    """A note where the file has keys that this `peft` leaves out."""
    kind = source.config.peft_type
    extra = set(source.content) - {
        field.name for field in dataclasses.fields(PEFT_TYPE_TO_CONFIG_MAPPING[kind])
    }
    if not extra:
        return []
    written = source.content.get("peft_version")
    by = f", which peft {written} wrote," if written and written != peft.__version__ else ""
    return [
        f"peft {peft.__version__} does not know {', '.join(sorted(extra))} of {kind.value}{by} and leaves "
        "it out; what reads it may train more or less."
    ]


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise SpecError(f"{path} cannot be read ({error}); {_WRITTEN_BY_PEFT}.") from error


# What matches nothing.


def require_match(source: Source, modules: Sequence[str], sites: Sequence[str], *, where: str) -> None:
    """Refuse a config whose targets are no modules of the model at all.

    Args:
        source: The config.
        modules: Every module of the model.
        sites: Those of them that can take adapters.
        where: Which config and which model, for the message.

    Raises:
        SiteError: With the nearest names there are.
    """
    asked = source.content.get("target_modules")
    is_regex = isinstance(asked, str)
    entries = [str(entry) for entry in ([asked] if is_regex else asked or ())]
    if not entries or any(entry in _ALL for entry in entries) or source.content.get("target_parameters"):
        return
    if any(_matches(entry, name, is_regex=is_regex) for entry in entries for name in modules):
        return
    known = list(dict.fromkeys(_last(name) for name in sites))
    hint = _nearest(entries, known) or f"; there are {', '.join(known[:8])}"
    raise SiteError(
        f"{where} do not fit: it adapts {_short(', '.join(entries))}, which the model lacks{hint}; "
        "use the base model that it was made for."
    )


def unmatched(source: Source, targeted: Collection[str], *, modules: Sequence[str]) -> list[str]:
    """A note for every name in a config that stands for no module; `peft` passes over them in silence."""
    content, notes = source.content, []
    is_classifier = content.get("task_type") in ("SEQ_CLS", "TOKEN_CLS")
    places = {
        "target_modules": targeted,
        "target_parameters": targeted,
        "feedforward_modules": targeted,
        "exclude_modules": modules,
        "modules_to_save": modules,
    }
    for field, choices in places.items():
        asked = content.get(field)
        known = (*_ALL, *(_HEADS if is_classifier and field == "modules_to_save" else ()))
        entries = [str(entry) for entry in asked if entry not in known] if isinstance(asked, list) else []
        lost = [entry for entry in entries if not any(_matches(entry, name) for name in choices)]
        if lost:
            near = _nearest(lost, list(dict.fromkeys(map(_last, (*choices, *modules)))))
            notes.append(f"{field} names what is not there: {', '.join(lost)}{near}.")
    for field, pattern in content.items():
        if field.endswith("_pattern") and isinstance(pattern, dict) and not _is_pruned(pattern):
            lost = [key for key in pattern if not any(_fits_pattern(key, name) for name in targeted)]
            if lost:
                notes.append(f"{field} has keys that fit no target: {', '.join(lost)}.")
    layers = content.get("layers_to_transform")
    wanted = layers if isinstance(layers, list) else [] if layers is None else [layers]
    lost = [str(n) for n in wanted if not any(f".{n}." in f".{name}." for name in targeted)]
    if lost:
        notes.append(f"layers_to_transform names what is not there: {', '.join(lost)}.")
    return notes


def _is_pruned(pattern: dict[str, Any]) -> bool:
    """Whether a pattern is what AdaLoRA has left of each rank, under the names of tensors."""
    return any(isinstance(kept, list) for kept in pattern.values())


def _short(text: str) -> str:
    return text if len(text) <= _SHORT else f"{text[: _SHORT - 2]} …"


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _matches(entry: str, name: str, *, is_regex: bool = False) -> bool:
    """As `peft` compares: a list by endings, a string as a regular expression on the whole name."""
    if is_regex:
        try:
            if re.fullmatch(entry, name):
                return True
        except re.error:
            return True  # peft says what is wrong with it
    return name == entry or name.endswith(f".{entry}")


def _fits_pattern(key: str, name: str) -> bool:
    try:
        return re.match(rf"(.*\.)?({key})$", name) is not None
    except re.error:
        return False


def _nearest(entries: Sequence[str], known: Sequence[str]) -> str:
    """The names nearest to what was asked, as a clause; empty where none is near."""
    words = [word for entry in entries for word in re.findall(r"[A-Za-z]\w+", entry)]
    found = [near for word in words for near in difflib.get_close_matches(word, known, n=2, cutoff=0.5)]
    return f"; nearest: {', '.join(list(dict.fromkeys(found))[:4])}" if found else ""

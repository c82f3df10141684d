"""Whether a plan can hold everything that an adapter config says."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from peft.utils.constants import SEQ_CLS_HEAD_NAMES

from autopeft.adapters.configs import changed_fields, type_name
from autopeft.adapters.reading import ConfigFile
from autopeft.errors import SpecError
from autopeft.extension import Method
from autopeft.model import BaseModel

# Fields that a plan need not repeat: the attached layers show them (the first two lines), or the method reads
# them itself.
_READ_ELSEWHERE = frozenset(
    "r lora_alpha alpha target_modules exclude_modules feedforward_modules target_parameters rank_pattern "
    "alpha_pattern use_rslora use_dora layers_to_transform layers_pattern fan_in_fan_out "
    "modules_to_save ensure_weight_tying init_lora_weights eva_config".split()
)


def method_for(file: ConfigFile, methods: Mapping[str, Method], *, path: Path) -> Method:
    """The method whose plans can hold every setting of a config; SpecError where there is none."""
    by_type = {method.readable_type: method for method in methods.values() if method.readable_type}
    if type_name(file.config) not in by_type:
        raise SpecError(
            f"{path} is of the type {type_name(file.config)}, which a plan cannot hold exactly; "
            f"it can hold {', '.join(sorted(by_type))}."
        )
    return by_type[type_name(file.config)]


def require_representable(file: ConfigFile, base: BaseModel, *, path: Path) -> None:
    """Refuse, by a SpecError, settings that a plan would lose and modules outside the head trained whole."""
    modules = [name for name, _ in base.module.named_modules()]
    for ending in getattr(file.config, "modules_to_save", None) or ():
        named = [name for name in modules if name == ending or name.endswith(f".{ending}")]
        outside = [name for name in named if not in_head(name, base)]
        if outside or (not named and ending not in SEQ_CLS_HEAD_NAMES):
            where = outside[0] if outside else f"{ending!r}, which {base.name} lacks"
            raise SpecError(
                f"{path} trains {where} whole (modules_to_save), and a plan trains only the task head so; "
                "take it out, or adapt it by a method."
            )
    for name, value in changed_fields(file.config).items():
        if name not in _READ_ELSEWHERE and not name.endswith("dropout"):
            default = getattr(type(file.config)(), name)
            raise SpecError(
                f"{path} has {name} {value!r}, which a plan cannot say; every plan has {default!r}."
            )


def in_head(name: str, base: BaseModel) -> bool:
    """Whether a module lies in the task head, which every plan trains whole."""
    return any(f"{name}.".startswith(f"{head}.") for head in base.head_names)


def dropout_notes(file: ConfigFile) -> list[str]:
    """A note for every dropout of a config, which a plan leaves out."""
    return [
        f"{name} {value} is left out: every plan is trained without dropout in its adapters."
        for name, value in changed_fields(file.config).items()
        if name.endswith("dropout")
    ]

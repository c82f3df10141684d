"""Tuners of this package among those of `peft`: a type for each, its registration, and typed layers."""

from __future__ import annotations

from collections.abc import Callable

import torch
from peft import PeftConfig, PeftType
from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from peft.utils import register_peft_method
from torch import nn


class TunerLayer(BaseTunerLayer):  # type: ignore[misc]
    """The base class of `peft`'s layers, with types for mypy, which would take its members for tensors."""

    active_adapters: list[str]
    disable_adapters: bool
    merged: bool
    merged_adapters: list[str]
    get_base_layer: Callable[[], nn.Module]
    set_adapter: Callable[..., None]
    _cast_input_dtype: Callable[..., torch.Tensor]
    _move_adapter_to_device_of_base_layer: Callable[..., None]


def extend_peft_type(name: str) -> PeftType:
    """The member of `peft`'s enum of methods, added where there is none.

    `register_peft_method` refuses names outside `PeftType`, and a Python enum is closed. The
    member is made and put into the three tables by which enums look members up, as their
    metaclass does (run on CPython 3.11 and 3.13). A second call finds the member.
    """
    if name not in PeftType.__members__:
        member = str.__new__(PeftType, name)
        member._name_ = member._value_ = name
        member.__objclass__ = PeftType
        type.__setattr__(PeftType, name, member)  # attribute access, from 3.12 on
        PeftType._member_names_.append(name)
        PeftType._member_map_[name] = member
        PeftType._value2member_map_[name] = member
    return PeftType[name]


def register(name: str, config: type[PeftConfig], tuner: type[BaseTuner]) -> None:
    """Make a tuner known to `peft`, which from then on attaches, saves and loads it as its own.

    A second call changes nothing. Where another package has taken the name, `peft` raises ValueError.
    """
    known = PEFT_TYPE_TO_TUNER_MAPPING.get(PeftType(name.upper()))
    if known is None or known.__module__ != tuner.__module__:
        register_peft_method(name=name, config_cls=config, model_cls=tuner)

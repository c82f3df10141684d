"""A name of our own among `peft`'s methods."""

from __future__ import annotations

from peft import PeftType
from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING


def extend_peft_type(name: str) -> PeftType:
    """The member of `peft`'s enum of methods, added where there is none.

    `register_peft_method` refuses names outside `PeftType`, and a Python enum is closed: the
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


def is_registered(name: str) -> bool:
    """Whether `peft` knows a tuner for a method of ours; it refuses to be told twice."""
    return PeftType(name.upper()) in PEFT_TYPE_TO_TUNER_MAPPING

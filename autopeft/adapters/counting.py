"""What a plan or adapter configs train on a base model, counted without weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from autopeft.adapters.configs import type_name
from autopeft.adapters.fitting import attach_fitting, in_a_sentence
from autopeft.adapters.reading import ConfigFile, unknown_keys
from autopeft.adapters.skeleton import attach_without_weights, held_names, remarks
from autopeft.adapters.stack import compile_plan
from autopeft.adapters.tally import Count, tally
from autopeft.adapters.unmatched import unmatched
from autopeft.errors import SiteError
from autopeft.extension import Method
from autopeft.model import BaseModel, adapter_names, for_task
from autopeft.records import Plan


def count_plan(plan: Plan, base: BaseModel, methods: Mapping[str, Method], *, task_type: str | None) -> Count:
    """The count of a plan on a base model, its task head apart.

    Args:
        plan: Passes `check_plan`.
        base: A skeleton; changed in place.
        methods: By name.
        task_type: `peft`'s word for the task; None where it has none.

    Raises:
        SiteError: `peft` attaches another number of parameters than the plan says.
    """
    stack = compile_plan(plan, methods)
    configs = for_task(stack.configs, base.module, task_type=task_type, head_names=base.head_names)
    attached = attach_without_weights(base.module, configs)
    names = tuple(dict.fromkeys(adapter.method for adapter in plan.adapters)) or ("head",)
    count = tally(attached, base, methods=names, notes=[n for config in configs for n in remarks(config)])
    if count.trainable_params != plan.trainable_params:
        raise SiteError(
            f"The plan says {plan.trainable_params:,} trainable parameters, but peft attaches "
            f"{count.trainable_params:,} to {base.name}; the plan was made for another version of peft."
        )
    return count


def count_configs(files: Sequence[ConfigFile], base: BaseModel, *, path: Path) -> Count:
    """The count of adapter configs, with notes of what in them means nothing or stays open.

    Arguments and errors are those of `attach_fitting`.
    """
    modules = [name for name, _ in base.module.named_modules() if name]
    attached = attach_fitting(files, base, path=path)
    methods = tuple(dict.fromkeys(type_name(file.config).lower() for file in files))
    notes = []
    for file, name in zip(files, adapter_names([file.config for file in files]), strict=True):
        targeted = [target for target, layer in attached.targets() if name in held_names(layer)]
        notes += [*unknown_keys(file), *unmatched(file, targeted, modules=modules), *remarks(file.config)]
    with in_a_sentence(path, base.name):
        return tally(attached, base, methods=methods, notes=notes)

"""`methods --model`: the methods with their learning rates on a base model, from its config alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from autopeft import model
from autopeft.extension import Method
from autopeft.pipeline.prepare import methods_for
from autopeft.records import ModelSpec


@dataclass(frozen=True, kw_only=True)
class MethodsOnModel:
    """The installed methods on one base model; `n_sites` says at how many sites each of them fits."""

    base_model: str
    hidden_size: int
    methods: Mapping[str, Method]
    n_sites: Mapping[str, int]


def methods_on(model_id: str) -> MethodsOnModel:
    """The methods with the learning rates that a search on this base model would try.

    Args:
        model_id: Hub id, or directory with a `config.json`; weights are not needed.

    Raises:
        ModelError: The config cannot be read.
    """
    with model.quiet_libraries():
        base = model.load_skeleton(ModelSpec(id=model_id), auto_class=None)
    base.log_remarks()
    methods = methods_for(base)
    return MethodsOnModel(
        base_model=base.name,
        hidden_size=base.hidden_size,
        methods=methods,
        n_sites={
            name: sum(method.refusal(site) is None for site in base.sites) for name, method in methods.items()
        },
    )

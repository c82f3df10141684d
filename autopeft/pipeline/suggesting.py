"""`suggest`: the usual LoRA under a budget at the middle of its learning rates, with nothing trained."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from peft import PeftConfig

from autopeft import model, space
from autopeft.adapters import compile_plan
from autopeft.errors import SpecError
from autopeft.extension import Method, discover
from autopeft.pipeline.best import plan_document
from autopeft.pipeline.fitting import fit_to_budget
from autopeft.pipeline.in_memory import NAMED, InMemory
from autopeft.pipeline.prepare import prepare, with_demo_settings
from autopeft.records import PlanDocument, RunSpec
from autopeft.space import BASELINE_METHOD


@dataclass(frozen=True, kw_only=True, repr=False)
class Suggestion:
    """A `peft` config to start from, the learning rate that goes with it, and the plan that both say.

    The config names task and head, so that `peft.get_peft_model(model, config)` trains exactly
    `trainable_params` parameters beside the head.
    """

    config: PeftConfig
    learning_rate: float
    document: PlanDocument

    @property
    def trainable_params(self) -> int:
        """Parameters of the adapters, without the head."""
        return self.document.plan.trainable_params

    def __repr__(self) -> str:
        kind, n_sites = type(self.config).__name__, len(self.document.plan.adapters)
        return (
            f"Suggestion({kind} on {n_sites} sites · {self.trainable_params:,} params · "
            f"learning_rate {self.learning_rate:.2g})"
        )


def suggest(spec: RunSpec, *, given: frozenset[str] = frozenset(), memory: InMemory = NAMED) -> Suggestion:
    """LoRA on all linear maps, of even ranks that spend the budget: the first baseline of a search.

    Raises:
        SpecError: The settings name methods without LoRA, or a folder to write to.
        UnknownNameError: A method does not exist.
        BudgetError: The budget does not pay for rank 1 at one site.
        AutopeftError: Data or model cannot be used, as for a search.
    """
    _require_lora_alone(spec, given)
    prepared = prepare(with_demo_settings(spec, given), memory=memory)
    lora_space = space.load(spec.search.space, known_methods=prepared.methods, only=(BASELINE_METHOD,))
    feasible, context = fit_to_budget(prepared, lora_space)
    low, high = space.learning_rates(feasible, BASELINE_METHOD, prepared.methods)
    policies = space.baseline_policies(
        context,
        learning_rate=math.sqrt(low * high),
        max_rank=feasible.methods[BASELINE_METHOD].max_rank,
    )
    document = plan_document(prepared, space.plan_of(next(iter(policies.values())), context))
    (config,) = model.for_task(
        compile_plan(document.plan, prepared.methods).configs,
        prepared.base.module,
        task_type=prepared.task.peft_task_type,
        head_names=prepared.base.head_names,
    )
    return Suggestion(config=config, learning_rate=document.plan.learning_rate, document=document)


def _require_lora_alone(spec: RunSpec, given: frozenset[str]) -> None:
    """Raise an error for settings that a suggestion would ignore: methods without LoRA, a folder."""
    known: Mapping[str, Method] = discover("autopeft.methods")
    names = [known[name].name for name in spec.search.methods]
    if names and BASELINE_METHOD not in names:
        raise SpecError(
            f"--methods is {', '.join(names)}, and a suggestion is always {known[BASELINE_METHOD].label}; "
            "leave methods out, or let autopeft.search compare them."
        )
    if "output.out" in given:
        raise SpecError(
            f"--out is {spec.output.out}, and a suggestion writes no files; leave it out, and write its "
            "config with suggestion.config.save_pretrained(folder)."
        )

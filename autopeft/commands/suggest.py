"""`suggest`: a good LoRA without a search, from the config of a base model alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from peft import PeftConfig

from autopeft import adapters, exports, model, space
from autopeft.adapters import Finding, compile_plan
from autopeft.budget import AUTO, RANKS
from autopeft.commands.estimate import StepEstimate, estimate_step, row_lengths
from autopeft.errors import BudgetError, SpecError, UnknownNameError
from autopeft.estimate import CARDS, BuiltBase, build_base
from autopeft.exports.recipes import RECIPES
from autopeft.model import BaseModel
from autopeft.model.checkpoint_source import own_class
from autopeft.plugins import PACKED_KINDS, Checkpoint, ExportSource, TrainingFacts, discover
from autopeft.report.formatting import render
from autopeft.setup.look import methods_for
from autopeft.setup.resources import budget_of, with_rank
from autopeft.space import BASELINE_METHOD, AllocationContext
from autopeft.train import MOVE_BELOW, MOVE_OF_NUMBERS, WARMUP_SHARE, head_move, warmup_steps
from autopeft.types import BudgetSpec, ModelSpec, Plan, RunSpec, with_setting

# From half to twice the rate, published runs of language models lose 0.001 to 0.0015 nats per token
# (benchmarks/studies/language_model_rates.py).
_RATE_SPAN = (0.5, 2.0)
# Compute their loss without all logits at once: unsloth, and TRL from 1.7 on, by default.
_LOSS_IN_PIECES = ("trl", "unsloth")


@dataclass(frozen=True, kw_only=True)
class Suggestion:
    """LoRA of one rank on the linear layers of some components, how to train it, and what that takes.

    `is_everywhere` if no linear layer is left out.

    `batch_size` rows make a step, `estimate.answer.step.n_rows` of them at a time. With data, the estimate
    has the steps of a run, their time and price; without, `warmup_steps` is None. `servers` are those that
    load the adapter of a causal language model, with what depends on their version or flags. `output_layer`
    is the last linear layer of a task head that is trained with the adapter.
    """

    base_model: str
    plan: Plan
    config: PeftConfig
    batch_size: int
    warmup_steps: int | None
    estimate: StepEstimate
    is_everywhere: bool = True
    servers: Mapping[str, tuple[Finding, ...]] = field(default_factory=dict)
    output_layer: str | None = None

    @property
    def learning_rate(self) -> float:
        """Return the peak learning rate of AdamW."""
        return self.plan.learning_rate

    @property
    def rate_range(self) -> tuple[float, float] | None:
        """Rates that cost about 0.001 nats per token; None if the model is not a language model."""
        if self.config.task_type != "CAUSAL_LM":
            return None
        low, high = _RATE_SPAN
        return low * self.learning_rate, high * self.learning_rate

    @property
    def trainable_params(self) -> int:
        """Parameters of the adapter, without a task head."""
        return self.plan.trainable_params

    @property
    def accumulation_steps(self) -> int:
        """The number of micro-batches in a step."""
        return -(-self.batch_size // self.estimate.answer.step.n_rows)

    @property
    def max_length(self) -> int:
        """The longest row in tokens: as in a run on the data, else as in the memory estimate."""
        rows = self.estimate.rows
        return self.estimate.answer.step.n_tokens if rows is None else rows.max_length

    @property
    def warmup(self) -> str:
        """The length of the warm-up, in words."""
        return f"{100 * WARMUP_SHARE:.0f} %" if self.warmup_steps is None else f"{self.warmup_steps} steps"

    @property
    def fitting_cards(self) -> tuple[str, ...]:
        """The cards that have the memory of the suggested step."""
        n_bytes = self.estimate.answer.step.memory.high
        return tuple(name for name, card in CARDS.items() if card.gib * 2**30 >= n_bytes)

    @property
    def places(self) -> dict[str, Any]:
        """Fields of the config on modules, experts, single ranks and a trained head."""
        names = ("target_modules", "target_parameters", "rank_pattern", "alpha_pattern", "modules_to_save")
        values = {name: value for name in names if (value := getattr(self.config, name))}
        return {name: sorted(value) if isinstance(value, set) else value for name, value in values.items()}

    def snippet(self, trainer: str) -> str:
        """Return the lines that set this suggestion up in a trainer, such as TRL.

        Raises:
            UnknownNameError: There are no lines for this trainer.
            SpecError: It cannot train this model or adapter.
        """
        if trainer not in RECIPES:
            raise UnknownNameError("trainer", trainer, RECIPES)
        recipe, step, rows = RECIPES[trainer], self.estimate.answer.step, self.estimate.rows
        learning_rate, stored = float(f"{self.learning_rate:.1e}"), self.estimate.answer.described.stored
        source = ExportSource(
            configs=(self.config,),
            base_model=self.base_model,
            task_type=self.config.task_type,
            head=tuple(self.config.modules_to_save or ()),
            checkpoint=Checkpoint(dequantizes=stored is not None and stored.is_loaded_plain),
            training=TrainingFacts(
                learning_rate=learning_rate,
                micro_batch_size=step.n_rows,
                accumulation_steps=self.accumulation_steps,
                max_steps=self.estimate.n_steps,
                warmup_steps=self.warmup_steps,
                max_length=self.max_length,
                quantize=step.quantize,
                dtype=self.estimate.dtype,
                checkpointing=step.checkpointing,
                packs=rows is not None and rows.kind in PACKED_KINDS,
            ),
        )
        if trainer != "peft" and (faults := recipe.problems(source)):
            raise SpecError(f"{trainer} cannot train this: {'; '.join(faults)}; pass --for peft.")
        lines = recipe.text(source)
        if trainer != "peft" or self.output_layer is None:
            return lines
        moves = {
            "classes": head_move(None if rows is None else rows.n_epochs),
            "numbers": MOVE_OF_NUMBERS,
            "below": MOVE_BELOW,
        }
        optimizer = render(
            "head_optimizer.py", learning_rate=learning_rate, output_layer=self.output_layer, moves=moves
        )
        return f"{lines}\n\n{optimizer.rstrip()}"


def suggest(spec: RunSpec, *, trainer: str = "peft") -> Suggestion:
    """Spend the budget on LoRA of one rank on all layers to adapt; predict batch, memory, time and price.

    These are the linear layers of `model.components`, by default those that suit the topology of the model.
    The memory is that of `trainer`.

    No weights are read, and no tokenizer without `data.source`. If the step does not fit and the user set no
    `model.quantize`, the base model is quantized to 4 bits, if it can be and then fits.

    Raises:
        BudgetError: The budget does not cover rank 1 on these layers.
        TargetError: The model has none of a component.
        SpecError, ModelError, DataError: As for `estimate`.
    """
    task, tasks = spec.task.name if "task.name" in spec.explicit else None, discover("autopeft.tasks")
    with model.quiet_libraries():
        built = build_base(spec.model, task=task, tasks=tasks)
    base = built.base
    if spec.budget.requested == AUTO:
        spec = _with_rank(spec, built)
    rank, plan, config = _largest_lora(spec, base)
    lora = f"{BASELINE_METHOD}_r{rank}"
    run = with_setting(spec, "model.id", spec.model.id or model.DEMO_HUB_ID)
    if run.data.source is None and built.task is not None:
        run = with_setting(run, "task.batch_size", built.task.defaults.batch_size[1])
    like = "autopeft" if trainer in _LOSS_IN_PIECES else "trainer"
    step = estimate_step(lora, run, accumulates=True, like=like)
    if "model.quantize" not in run.explicit and not step.fits and step.answer.described.can_be_quantized:
        quantized = with_setting(run, "model.quantize", "4bit")
        in_4_bits = estimate_step(lora, quantized, accumulates=True, like=like)
        step = in_4_bits if in_4_bits.fits else step
    return Suggestion(
        base_model=base.name,
        plan=plan,
        config=config,
        batch_size=step.n_rows,
        warmup_steps=None if step.n_steps is None else warmup_steps(step.n_steps),
        estimate=step,
        is_everywhere=not base.left_out,
        servers=_servers(config, base, spec.model) if config.task_type == "CAUSAL_LM" else {},
        output_layer=base.output_layer if config.modules_to_save else None,
    )


def _with_rank(spec: RunSpec, built: BuiltBase) -> RunSpec:
    """Replace the budget `auto` by a rank for the labelled tokens of the data."""
    if spec.data.source is None or built.task is None:
        raise SpecError("The budget 'auto' needs the rows of a language model: pass --data, or a rank.")
    rows = row_lengths(
        with_setting(spec, "task.name", built.task.name),
        device="cpu" if (spec.execution.device or "").startswith("cpu") else "cuda",
    )
    assert rows.n_labelled is not None, "the budget is auto"
    return with_rank(spec, built.base, n_labelled=rows.n_labelled)[0]


def _largest_lora(spec: RunSpec, base: BaseModel) -> tuple[int, Plan, PeftConfig]:
    """Return rank, plan and config of the largest LoRA of a rank in `RANKS` on the chosen components."""
    methods, budget = methods_for(base), budget_of(spec, base)
    per_rank = budget_of(spec.model_copy(update={"budget": BudgetSpec(requested="r1")}), base)
    max_rank = budget.max_trainable_params // per_rank.max_trainable_params
    if not max_rank:
        raise BudgetError(
            f"The budget {budget.requested!r} allows {budget.max_trainable_params:,} parameters, and LoRA of "
            f"rank 1 on its linear layers trains {per_rank.max_trainable_params:,}; raise --budget, or let "
            "autopeft search choose fewer modules."
        )
    rank = max(rank for rank in RANKS if rank <= max_rank)
    context = AllocationContext(
        targets=base.chosen,
        scores=dict.fromkeys((target.name for target in base.chosen), 1.0),
        methods=methods,
        max_params=rank * per_rank.max_trainable_params,
    )
    default = space.load("default", known_methods=methods)
    baseline = next(each for each in default.listed["language"] if each.baseline)
    baseline_only = default.model_copy(update={"listed": {"language": (baseline,)}})
    (_, policy), *_ = space.listed_policies(baseline_only, "language", context)
    plan = space.plan_of(policy, context)
    (config,) = model.for_task(
        compile_plan(plan, methods).configs,
        base.module,
        task_type=model.task_type_of(base.module),
        head_names=base.head_names,
    )
    return rank, plan, config


def _servers(config: PeftConfig, base: BaseModel, spec: ModelSpec) -> dict[str, tuple[Finding, ...]]:
    """Return the servers that load an adapter, with their warnings; attaches it to the skeleton `base`."""
    places, whole = model.components(base.module), own_class(model.config_of(spec), "AutoModelForCausalLM")
    attached = adapters.attach_fitting(base.module, [config], base_name=base.name, path=Path())
    names, loading = [target for target, _ in attached.targets()], {}
    for server in exports.SERVERS:
        faults = tuple(
            exports.server_faults(
                server, attached, configs=[config], places=places, tensor_names=names, whole=whole
            )
        )
        if all(fault.severity == "warning" for fault in faults):
            loading[server] = faults
    return loading

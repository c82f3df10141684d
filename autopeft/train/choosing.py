"""Chooses micro-batches and checkpointing from what the device has."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from dataclasses import replace

from autopeft.errors import SpecError
from autopeft.model import free_bytes, is_out_of_memory, release_memory, taken_bytes
from autopeft.records import Decision, ExecutionSpec, Plan
from autopeft.space import BASELINE_METHOD, AllocationContext, Policy, plan_of
from autopeft.train.bench import Bench
from autopeft.train.compute import Compute
from autopeft.train.failures import less_memory

# Processor seconds per 1,000 tokens of SmolLM2-135M, LoRA everywhere, bf16, one core, in parts of 128 … 2,048
# tokens: 5.3, 4.7, 4.3, 4.1, 3.9. On a GPU more than these tokens bring nothing either; chosen by hand.
_MOST_TOKENS = {"cpu": 2048, "cuda": 16_384}
_FEW_TOKENS = 256  # on a CPU, where fewer cost time; see above
_FEW_BYTES = 2**29  # on a CPU, which no one has to save; chosen by hand
_WEIGHTS_SHARE = 0.25  # of the weights' bytes, on a CPU: 1.2 B in bf16 then stay below twice them; by hand
# Of the free memory: outputs of frozen layers and batches may take three tenths (see `bench`), and the
# optimizer, logits and gaps between tensors need some; by hand.
_FREE_SHARE = 0.65
# What a transformer layer keeps for its backward pass over what its input takes, both in 16 bits: 34 bytes
# for each of its numbers (Korthikanti et al. 2022, arXiv 2205.05198, section 4) over 2.
_LAYER_OVER_INPUT = 17
_RANK = 8  # of the LoRA at all linear maps whose memory is counted; usual

log = logging.getLogger(__name__)


def choose_compute(bench: Bench, execution: ExecutionSpec) -> tuple[Compute, tuple[Decision, ...]]:
    """How to compute under the settings, and the decisions about what they leave open.

    The longest row is run forward through LoRA at all linear maps, to count what it keeps for backward.
    """
    requested, tokens = execution.checkpointing, execution.micro_batch_tokens
    if tokens is not None and requested != "auto":
        is_checkpointed = requested == "on"
        return _compute(execution, tokens, is_checkpointed), ()
    free = free_bytes(bench.base.device, limit_bytes=execution.memory_bytes)
    room, n_tokens = int(_FREE_SHARE * free), int(bench.splits["train"].sizes.max())
    row_bytes, is_checkpointed = _row_bytes(bench, requested, room=room)
    facts = f"the longest row keeps {_size(row_bytes)} for its backward pass, and {_size(free)} are free"
    if row_bytes > room:
        # Where `auto` leaves checkpointing off although memory is scarce, the layers cannot be checkpointed.
        remedy = less_memory(
            checkpointing="off" if requested == "off" else "on", is_quantised=bench.base.n_bits > 0
        )
        log.warning("Memory may run out: %s. %s", facts, remedy)
    decisions = []
    if tokens is None:
        weights = bench.base.weight_bytes
        token_bytes = max(1, row_bytes // n_tokens)
        tokens, rule = most_tokens(bench.base.device.type, token_bytes, free=free, weights=weights)
        rule = f"a token keeps {_size(token_bytes)} for the backward pass, and {_size(free)} are free; {rule}"
        decisions.append(Decision(setting="execution.micro_batch_tokens", value=str(tokens), rule=rule))
    if requested == "auto":
        value = "on" if is_checkpointed else "off"
        decisions.append(Decision(setting="execution.checkpointing", value=value, rule=facts))
    return _compute(execution, tokens, is_checkpointed), tuple(decisions)


def check_limit(bench: Bench, execution: ExecutionSpec) -> None:
    """Raise SpecError where `--memory` allows no more than the process has taken before it trains."""
    limit_bytes, device = execution.memory_bytes, bench.base.device
    taken = taken_bytes(device)
    if limit_bytes is None or limit_bytes > taken:
        return
    row_bytes, _ = _row_bytes(bench, execution.checkpointing, room=0)
    where = "this process, with its libraries and the model" if device.type == "cpu" else "the model"
    raise SpecError(
        f"--memory is {_size(limit_bytes)}, and {where} takes {_size(taken)} before any training; pass "
        f"{_size(taken + int(row_bytes / _FREE_SHARE))} at least, or take a smaller model."
    )


def _compute(execution: ExecutionSpec, tokens: int, is_checkpointed: bool) -> Compute:
    return Compute(
        micro_batch_tokens=tokens, checkpointing=is_checkpointed, memory_bytes=execution.memory_bytes
    )


def _row_bytes(bench: Bench, requested: str, *, room: int) -> tuple[int, bool]:
    """What the longest train row keeps, and whether with checkpointing: on request or in need."""
    plan, row = _usual_plan(bench), [int(bench.splits["train"].sizes.argmax())]
    plain = _plain_bytes(bench, plan, row, requested)
    if plain is not None and (requested == "off" or (requested == "auto" and plain <= room)):
        return plain, False
    inputs = replace(bench, compute=Compute(checkpointing=True)).saved_bytes(plan, row)
    if plain is not None and inputs >= plain:
        log.warning("The layers of %s cannot be checkpointed, so that none are.", bench.base.name)
        return plain, False
    return inputs + _in_one_layer(bench, plain, inputs), True


def kept_bytes(bench: Bench, plan: Plan, rows: Sequence[int]) -> int:
    """What train rows, as one micro-batch, keep for the backward pass of a plan, as the bench computes.

    With checkpointing these are the inputs of all layers, and what one layer computes again.
    """
    kept = bench.saved_bytes(plan, rows)
    if not bench.compute.checkpointing:
        return kept
    sizes = bench.splits["train"].sizes
    longest = [max(rows, key=lambda row: int(sizes[row]))]  # without checkpointing all may take too much
    plain = _plain_bytes(replace(bench, compute=Compute()), plan, longest, "on")
    return kept + len(rows) * _in_one_layer(bench, plain, bench.saved_bytes(plan, longest))


def _in_one_layer(bench: Bench, plain: int | None, inputs: int) -> int:
    """What one layer keeps where it is computed again, beside the inputs of all layers.

    `plain` is what all keep without checkpointing; None where memory runs out.
    """
    n_layers = len({site.layer for site in bench.base.sites if site.layer is not None})
    in_layers = _LAYER_OVER_INPUT * inputs if plain is None else max(0, plain - inputs)
    return in_layers // max(1, n_layers)


def _plain_bytes(bench: Bench, plan: Plan, row: list[int], requested: str) -> int | None:
    """What a row keeps without checkpointing; None where memory runs out that checkpointing may save."""
    try:
        return bench.saved_bytes(plan, row)
    except (RuntimeError, MemoryError) as error:
        if requested == "off" or not is_out_of_memory(error):
            raise
    release_memory(bench.base.device)  # after the handler, whose error holds on to the tensors
    return None


def most_tokens(device: str, token_bytes: int, *, free: int, weights: int) -> tuple[int, str]:
    """The most tokens of a micro-batch, >= 1, and which limit decides them.

    Args:
        device: Type of the device, such as cpu.
        token_bytes: What a token keeps for the backward pass.
        free: Free bytes of the device.
        weights: Bytes of the base model's weights.

    Example:
        >>> most_tokens("cuda", 2**20, free=10 * 2**30, weights=2**30)
        (6656, '65 % of what is free may be taken')
    """
    limits = [
        (_MOST_TOKENS.get(device, _MOST_TOKENS["cuda"]), "more at once would bring no speed"),
        (
            int(_FREE_SHARE * free) // token_bytes,
            f"{100 * _FREE_SHARE:.0f} % of what is free may be taken",
        ),
    ]
    if device == "cpu":
        few = max(_FEW_TOKENS, _FEW_BYTES // token_bytes)
        most = max(few, int(_WEIGHTS_SHARE * weights) // token_bytes)
        reason = "fewer would cost time" if most == few else "a quarter of the weights' memory may be taken"
        limits.append((most, reason))
    tokens, reason = min(limits, key=lambda limit: limit[0])
    return max(1, tokens), reason


def _usual_plan(bench: Bench) -> Plan:
    """LoRA at all linear maps; the task head alone where it fits nowhere."""
    sites, method = bench.base.sites, bench.methods[BASELINE_METHOD]
    if all(method.refusal(site) is not None for site in sites):
        return Plan(adapters=(), learning_rate=1.0, trainable_params=0)
    context = AllocationContext(
        sites=sites,
        scores=dict.fromkeys((site.name for site in sites), 1.0),
        methods=bench.methods,
        max_params=sys.maxsize,
    )
    return plan_of(Policy(method=BASELINE_METHOD, learning_rate=1.0, max_rank=_RANK), context)


def _size(n_bytes: int) -> str:
    unit, name = next(((2**i, n) for i, n in ((30, "GiB"), (20, "MiB")) if n_bytes >= 2**i), (2**10, "KiB"))
    return f"{n_bytes / unit:.1f} {name}"

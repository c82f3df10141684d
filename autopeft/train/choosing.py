"""Chooses micro-batches and checkpointing by the memory of the device."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from autopeft.errors import SpecError
from autopeft.model import free_bytes
from autopeft.model.devices import taken_bytes
from autopeft.space import BASELINE_METHOD, plan_everywhere
from autopeft.tasks._shared.token_losses import piece_logits
from autopeft.train.bench import Bench
from autopeft.train.compute import Compute, unless_out_of_memory
from autopeft.types import Decision, ExecutionSpec, Plan

# Processor seconds per 1,000 tokens of SmolLM2-135M, LoRA everywhere, bf16, one core, in micro-batches of 128
# … 2,048 tokens: 5.3, 4.7, 4.3, 4.1, 3.9. On a GPU more than these tokens bring nothing either; heuristic.
_MOST_TOKENS = {"cpu": 2048, "cuda": 16_384}
_TOKEN_STEP = 512  # on a GPU, whose micro-batches are multiples of it where they are larger; heuristic
_FEW_TOKENS = 256  # on a CPU, where fewer cost time; see above
_FEW_BYTES = 2**29  # on a CPU, not worth saving; heuristic
_WEIGHTS_SHARE = 0.25  # of the weights' bytes, on a CPU: 1.2 B in bf16 then stay below twice them; heuristic
# Of the free memory, for what is not counted: batches, and the gradients of a layer while the backward pass
# computes them; heuristic.
_OTHER_SHARE = 0.1
# Of the free memory that nothing else needs; the rest is for gaps between tensors, which an allocator keeps
# in reserve (see docs/estimate.md).
_KEPT_SHARE = 0.93
_TRAINED_BYTES = 16  # of a trained parameter: itself, its gradient, and AdamW's two moments in float32
_LOGIT_BYTES = 12  # of a logit: in 16 and in 32 bits, and both again for its gradient
_WITH_LOGITS = ("CAUSAL_LM", "SEQ_2_SEQ_LM")  # tasks of peft with logits over a vocabulary at each label
# What a transformer layer keeps for its backward pass over what its input takes, both in 16 bits: 34 bytes
# for each of its numbers (Korthikanti et al. 2022, arXiv 2205.05198, section 4) over 2.
_LAYER_OVER_INPUT = 17
_RANK = 8  # of the LoRA at all linear layers whose memory is counted; a common rank

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class _Row:
    """The bytes that a row keeps for its backward pass, on each device with layers."""

    kept: int  # as it is trained: with checkpointing if `is_checkpointed`
    plain: int  # without checkpointing
    is_checkpointed: bool


def choose_compute(
    bench: Bench, execution: ExecutionSpec, *, trained_params: int = 0
) -> tuple[Compute, tuple[Decision, ...]]:
    """Choose micro-batches and checkpointing unless they are set; return the reasons too.

    The longest row is run forward through LoRA at all linear layers, to count what it keeps for backward.
    Memory is reserved for `trained_params`, the most that a plan trains.
    """
    requested, tokens = execution.checkpointing, execution.micro_batch_tokens
    free = min(free_bytes(device, limit_bytes=execution.memory_bytes) for device in bench.base.devices)
    reserved, split = _reserved(bench, trained_params), bench.splits["train"]
    available = max(0, int(_KEPT_SHARE * ((1 - _OTHER_SHARE) * free - reserved)))
    n_tokens = int(split.sizes[split.largest_rows(1)].max())
    row = _longest_row(bench, requested, available=available)
    facts = (
        f"the longest row needs {_size(row.kept)} for its backward pass, and {_size(available)} are available"
    )
    if row.kept > available:
        # Where `auto` leaves checkpointing off although memory is scarce, the layers cannot be checkpointed.
        remedy = memory_advice(
            checkpointing="off" if requested == "off" else "on", is_quantized=bench.base.n_bits > 0
        )
        log.warning("Memory may run out: %s. %s", facts, remedy)
    decisions = []
    if tokens is None:
        weights = bench.base.weight_bytes
        token_bytes = max(1, row.kept // n_tokens)
        tokens, rule = most_tokens(bench.base.device.type, token_bytes, available=available, weights=weights)
        rule = f"a token needs {_size(token_bytes)} for the backward pass, and {_size(free)} are free; {rule}"
        decisions.append(Decision(setting="execution.micro_batch_tokens", value=str(tokens), rule=rule))
    if requested == "auto":
        value = "on" if row.is_checkpointed else "off"
        decisions.append(Decision(setting="execution.checkpointing", value=value, rule=facts))
    compute = Compute(
        micro_batch_tokens=tokens,
        checkpointing=row.is_checkpointed,
        plain_tokens=max(1, tokens * row.kept // max(1, row.plain)),
        memory_bytes=execution.memory_bytes,
    )
    return compute, tuple(decisions)


def memory_advice(*, checkpointing: str, is_quantized: bool) -> str:
    """Describe how the user can save memory, without what is on already."""
    remedies = ["Lower --max-length"]
    remedies += [] if checkpointing == "on" else ["set --checkpointing on"]
    remedies += [] if is_quantized else ["pass --quantize 4bit"]
    return f"{', '.join(remedies)}, or take a smaller model."


def check_limit(bench: Bench, execution: ExecutionSpec) -> None:
    """Raise SpecError if `--memory` is at most what is taken already before training."""
    limit_bytes, taken = execution.memory_bytes, max(map(taken_bytes, bench.base.devices))
    if limit_bytes is not None and limit_bytes <= taken:
        raise SpecError(
            f"--memory is {_size(limit_bytes)}, and model and libraries take {_size(taken)} before any "
            "training; raise it, or take a smaller model."
        )


def _reserved(bench: Bench, trained_params: int) -> int:
    """Count the bytes that a step needs for trained parameters and logits."""
    reserved = _TRAINED_BYTES * trained_params
    if bench.task.peft_task_type not in _WITH_LOGITS:
        return reserved  # the few logits of other tasks count in what a row keeps
    device, config = bench.base.device.type, cast(Any, bench.base.module.config)
    most = _MOST_TOKENS.get(device, _MOST_TOKENS["cuda"]) * int(config.get_text_config().vocab_size)
    return reserved + _LOGIT_BYTES * min(piece_logits(on_gpu=device != "cpu"), most)


def _longest_row(bench: Bench, requested: str, *, available: int) -> _Row:
    """Measure what the longest row keeps, with checkpointing if requested or necessary."""
    plan = plan_everywhere(BASELINE_METHOD, _RANK, bench.base.chosen, bench.methods)
    row, n_devices = bench.splits["train"].largest_rows(1), len(bench.base.devices)
    plain = _plain_bytes(bench, plan, row, requested)
    each = 0 if plain is None else plain // n_devices
    if plain is not None and (requested == "off" or (requested == "auto" and each <= available)):
        return _Row(kept=each, plain=each, is_checkpointed=False)
    input_bytes = replace(bench, compute=Compute(checkpointing=True)).saved_bytes(plan, row)
    if plain is not None and input_bytes >= plain:
        log.warning("The layers of %s cannot be checkpointed, so that none are.", bench.base.name)
        return _Row(kept=each, plain=each, is_checkpointed=False)
    kept = input_bytes // n_devices + _in_one_layer(bench, plain, input_bytes)
    plain = (1 + _LAYER_OVER_INPUT) * input_bytes if plain is None else plain
    return _Row(kept=kept, plain=max(plain // n_devices, kept), is_checkpointed=True)


def kept_bytes(bench: Bench, plan: Plan, rows: Sequence[int]) -> int:
    """Count what rows keep for a backward pass: with checkpointing all layers' inputs, and one layer."""
    kept = bench.saved_bytes(plan, rows)
    if not bench.compute.checkpointing:
        return kept
    sizes = bench.splits["train"].sizes
    longest = [max(rows, key=lambda row: int(sizes[row]))]  # without checkpointing all rows may not fit
    plain = _plain_bytes(replace(bench, compute=Compute()), plan, longest, "on")
    return kept + len(rows) * _in_one_layer(bench, plain, bench.saved_bytes(plan, longest))


def _in_one_layer(bench: Bench, plain: int | None, input_bytes: int) -> int:
    """Estimate the bytes that one checkpointed layer keeps while it is computed again."""
    n_layers = len({target.layer for target in bench.base.chosen if target.layer is not None})
    in_layers = _LAYER_OVER_INPUT * input_bytes if plain is None else max(0, plain - input_bytes)
    return in_layers // max(1, n_layers)


def _plain_bytes(bench: Bench, plan: Plan, row: list[int], requested: str) -> int | None:
    """Measure what a row keeps without checkpointing; None if memory runs out and it is not ruled out."""
    if requested == "off":
        return bench.saved_bytes(plan, row)
    return unless_out_of_memory(bench.base.device, lambda: bench.saved_bytes(plan, row))


def most_tokens(device: str, token_bytes: int, *, available: int, weights: int) -> tuple[int, str]:
    """Return the most tokens of a micro-batch, >= 1, and the reason.

    What fits is rounded down to a power of two, on a GPU above 512 tokens to a multiple of 512, so that small
    changes in free memory change nothing. A token keeps `token_bytes` for the backward pass, and all of a
    micro-batch may keep `available` bytes. The base model has `weights` bytes.
    """
    n_fitting = available // token_bytes
    rounded = (1 << n_fitting.bit_length()) // 2
    if device != "cpu" and n_fitting > _TOKEN_STEP:
        rounded = n_fitting // _TOKEN_STEP * _TOKEN_STEP
    limits = [
        (_MOST_TOKENS.get(device, _MOST_TOKENS["cuda"]), "more tokens at once would not be faster"),
        (rounded, f"{_size(available)} is available"),
    ]
    if device == "cpu":
        least = max(_FEW_TOKENS, _FEW_BYTES // token_bytes)
        most = max(least, int(_WEIGHTS_SHARE * weights) // token_bytes)
        reason = "fewer would cost time" if most == least else "a quarter of the weights' memory may be taken"
        limits.append((most, reason))
    tokens, reason = min(limits, key=lambda limit: limit[0])
    return max(1, tokens), reason


def _size(n_bytes: int) -> str:
    unit, name = next(((2**i, n) for i, n in ((30, "GiB"), (20, "MiB")) if n_bytes >= 2**i), (2**10, "KiB"))
    return f"{n_bytes / unit:.1f} {name}"

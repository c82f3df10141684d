"""What `count`, `estimate` and `suggest` print: parameters, memory, what fits, time and price."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from autopeft.cli.printing import blocks_text, columns, lines_of, table
from autopeft.report.formatting import duration, memory, percent
from autopeft.types import counted, rate

if TYPE_CHECKING:
    from autopeft.adapters import Count
    from autopeft.commands import StepEstimate, Suggestion
    from autopeft.estimate import Description, Step

_ENDS = ("low", "expected", "high")
_TIME_SPAN = (0.75, 1.35)  # low and high, of the predicted time (benchmarks/studies/published_times.md)
_LOOPS = {"autopeft": "autopeft's trainer", "trainer": "the Trainer of transformers"}


def count_text(count: Count) -> str:
    """Format a count: the totals, and a table of the roles."""
    title = (
        f"{count.base_model}: {', '.join(count.methods)}, {count.trainable_params:,} trainable parameters "
        f"({percent(100 * count.share_of_base)})"
    )
    head = f"task head {count.head_params:,} in addition" if count.head_params else "no task head"
    totals = f"base model {count.base_params:,}; {head}; saved tensors {memory(count.adapter_bytes)}"
    rows = []
    for role, params in count.by_role.items():
        low, high = count.ranks.get(role, (0, 0))
        rank = "" if high == 0 else f"{low}" if low == high else f"{low}-{high}"
        share = f"{100 * params / max(1, count.trainable_params):.1f} %"
        rows.append((role, f"{count.targets[role]}", rank, f"{params:,}", share))
    roles = table(("role", "targets", "rank", "parameters", "share"), rows) if rows else ()
    return blocks_text(
        lines_of([title]),
        lines_of([totals]),
        roles,
        _coverage(count),
        lines_of(f"note: {note}" for note in count.notes),
    )


def _coverage(count: Count) -> Sequence[str]:
    """Write a table of the components of the base model, and of what is adapted of each."""
    rows = [
        (
            _label(component),
            f"{of.base_params:,}",
            f"{of.adapted} of {of.modules}",
            f"{of.trainable_params:,}" if of.trainable_params else "",
        )
        for component, of in count.by_component.items()
    ]
    return table((count.topology, "parameters", "modules adapted", "trainable"), rows)


def _label(component: str) -> str:
    return "MLP" if component == "mlp" else component.replace("_", " ")


def estimate_text(estimate: StepEstimate) -> str:
    """Format an estimate: subject, step, memory, time, what fits, and the parts of the memory."""
    described, step = estimate.answer.described, estimate.answer.step
    device = "a GPU" if estimate.on_gpu else "a CPU"
    if estimate.rates is not None:
        device = estimate.rates.name
    facts = {
        "step": f"{_batch(step.n_rows, step, described)}, {estimate.dtype}",
        "loop": f"{_LOOPS[estimate.like]} on {device}",
        **_costs(estimate),
        "what fits": _limits(estimate),
    }
    memory = step.memory
    parts = {
        "weights": memory.weights,
        "adapters, gradients, optimizer": memory.trained,
        "activations": memory.activations,
        "logits and loss": memory.logits,
        f"allocator's reserve{'' if estimate.on_gpu else ', libraries'}": memory.reserve[1],
    }
    return blocks_text(
        lines_of([f"{estimate.part.label} on {described.base_model}: {_params(estimate)}"]),
        _facts(facts),
        table(("expected memory", "GiB"), [(part, _gib(n_bytes)) for part, n_bytes in parts.items()]),
        lines_of(f"note: {note}" for note in _notes(estimate)),
    )


def suggestion_text(suggestion: Suggestion) -> str:
    """Format a suggestion, one fact a line."""
    estimate, config = suggestion.estimate, suggestion.config
    described, step = estimate.answer.described, estimate.answer.step
    at_once = "" if suggestion.accumulation_steps == 1 else f", {counted(step.n_rows, 'row')} at a time"
    learning_rate = rate(suggestion.learning_rate)
    if (span := suggestion.rate_range) is not None:
        learning_rate += f" ({rate(span[0])} to {rate(span[1])} costs about 0.001 nats)"
    facts = {
        "rank, alpha": f"{config.r}, {config.lora_alpha}",
        "learning rate": f"{learning_rate}, {suggestion.warmup} of warm-up, then linear to 0",
        "head's rate": "by the size of its inputs: see optimizer_for" if suggestion.output_layer else "",
        "step": f"{_batch(suggestion.batch_size, step, described)}{at_once}",
        **_costs(estimate),
        "servers": _servers(suggestion),
    }
    count = described.count
    assert count is not None, "LoRA is not full fine-tuning"
    adapted = [_label(name) for name, of in count.by_component.items() if of.adapted]
    where = "all linear layers" if suggestion.is_everywhere else " and ".join(adapted)
    if not estimate.fits:
        cards = ", ".join(suggestion.fitting_cards) or "none of the cards that --device knows"
        facts["what fits"] = f"{_gib(step.memory.high)} GiB: {cards}"
    return blocks_text(
        lines_of([f"LoRA on {where} of {suggestion.base_model}: {_params(estimate)}"]),
        _facts(facts),
        _coverage(count),
        lines_of(f"note: {note}" for note in _notes(estimate)),
    )


def _facts(facts: Mapping[str, str]) -> list[str]:
    return table((), [(name, fact) for name, fact in facts.items() if fact], n_texts=2, width=columns())


def _costs(estimate: StepEstimate) -> dict[str, str]:
    """Write how the base model is quantized, and what a step and a run take."""
    step, quantized = estimate.answer.step, _quantization(estimate)
    memory = f"{_range(_gib, step.memory.expected, step.memory.low, step.memory.high)} GiB"
    if (most := estimate.max_bytes) is not None:
        memory += f", {'of' if estimate.fits else 'which does not fit into'} {_gib(most)} GiB"
    return {
        "base model": "" if quantized == "none" else f"linear layers in {quantized}",
        "memory": f"{memory}, checkpointing {_switch(step)}",
        "time": "; ".join(_times(estimate)),
    }


def _times(estimate: StepEstimate) -> Iterator[str]:
    """Write the time of a run with its price, that of a step, and what to pass to know more."""
    seconds, run_seconds, steps = estimate.seconds, estimate.run_seconds, f"{estimate.n_steps or 0:,} steps"
    if run_seconds is not None:
        price = "" if estimate.price is None else f", price {estimate.price:,.2f}"
        yield f"{steps} in {_range(duration, *_span(run_seconds))} without evaluation{price}"
    elif estimate.n_steps is not None:
        yield steps
    if seconds is None:
        yield "pass --device, such as a100-80gb"
    else:
        yield f"{_range(duration, *_span(seconds))} a step"
        if run_seconds is None:
            yield "pass --data for that of a run"


def _limits(estimate: StepEstimate) -> str:
    """Write the largest batch and the longest rows that fit, or the nearest settings that do."""
    described, step, limits = estimate.answer.described, estimate.answer.step, estimate.answer.limits
    if limits is None:
        return ""
    if limits.fits:
        largest = _batch(limits.most_rows, step, described)
        longest = f", or {counted(step.n_rows, 'row')} of {limits.longest_row:,} tokens"
        return largest if described.reads_images else f"{largest}{longest}"
    if (nearest := limits.nearest) is None:
        return "no settings of this model; take a smaller model, or a device with more memory"
    bits = "" if nearest.quantize == "none" else f"--quantize {nearest.quantize} "
    length = "" if described.reads_images else f" --max-length {nearest.n_tokens}"
    return f"{bits}--checkpointing {_switch(nearest)} --batch-size {nearest.n_rows}{length}"


def estimate_json(estimate: StepEstimate) -> dict[str, Any]:
    """Return an estimate as plain values: sizes in bytes, times in seconds, unknown values as None."""
    described, step, limits = estimate.answer.described, estimate.answer.step, estimate.answer.limits
    content = {
        "base_model": described.base_model,
        "trained": estimate.part.label,
        "trainable_params": _trained_params(estimate),
        "head_params": 0 if described.count is None else described.count.head_params,
        "base_params": described.base_params,
        "dtype": estimate.dtype,
        "like": estimate.like,
        "device": "gpu" if estimate.on_gpu else "cpu",
        **_step_json(step, described),
        "quantize": _quantization(estimate),
        "typical_length": estimate.answer.typical.n_tokens,
        "step_seconds": _span_json(estimate.seconds),
        "full_run_steps": estimate.n_steps,
        "full_run_seconds": _span_json(estimate.run_seconds),
        "price": estimate.price,
        "memory_bytes": estimate.max_bytes,
        "fits": None if estimate.max_bytes is None else estimate.fits,
        "notes": _notes(estimate),
    }
    if limits is not None:
        nearest = limits.nearest and _step_json(limits.nearest, described)
        content |= {"most_rows": limits.most_rows, "longest_row": limits.longest_row, "nearest": nearest}
    return content


def suggestion_json(suggestion: Suggestion) -> dict[str, Any]:
    """Return a suggestion as plain values: those of its estimate, and what to train."""
    described, count = suggestion.estimate.answer.described, suggestion.estimate.answer.described.count
    assert count is not None, "LoRA is not full fine-tuning"
    return {
        **estimate_json(suggestion.estimate),
        "topology": count.topology,
        "components": {name: asdict(of) for name, of in count.by_component.items()},
        "r": suggestion.config.r,
        "lora_alpha": suggestion.config.lora_alpha,
        **suggestion.places,
        "learning_rate": suggestion.learning_rate,
        "learning_rate_range": suggestion.rate_range,
        "warmup_steps": suggestion.warmup_steps,
        "batch_size": suggestion.batch_size,
        "micro_batch_size": suggestion.estimate.answer.step.n_rows,
        "max_length": None if described.reads_images else suggestion.max_length,
        "servers": {name: [each.text for each in found] for name, found in suggestion.servers.items()},
    }


def _step_json(step: Step, described: Description) -> dict[str, Any]:
    memory = step.memory
    return {
        "batch_size": step.n_rows,
        "max_length": None if described.reads_images else step.n_tokens,
        "quantize": step.quantize,
        "checkpointing": step.checkpointing,
        "peak_bytes": {end: getattr(memory, end) for end in _ENDS},
        "parts": {
            "weights": memory.weights,
            "trained": memory.trained,
            "activations": memory.activations,
            "logits_and_loss": memory.logits,
            "reserve": dict(zip(_ENDS, memory.reserve, strict=True)),
        },
    }


def _servers(suggestion: Suggestion) -> str:
    good = [name for name, warnings in suggestion.servers.items() if not warnings]
    facts = [f"no fault known for {', '.join(good)}"] if good else []
    for name, warnings in suggestion.servers.items():
        facts += [f"{name} {warning.text}" for warning in warnings]
    return "; ".join(facts)


def _params(estimate: StepEstimate) -> str:
    trained = _trained_params(estimate)
    return f"{trained:,} parameters ({percent(100 * trained / estimate.answer.described.base_params)})"


def _trained_params(estimate: StepEstimate) -> int:
    described = estimate.answer.described
    return described.base_params if described.count is None else described.count.trainable_params


def _quantization(estimate: StepEstimate) -> str:
    """Return how the base model is quantized, on request or in its checkpoint."""
    stored = estimate.answer.described.stored
    return estimate.answer.step.quantize if stored is None else stored.quantize


def _notes(estimate: StepEstimate) -> list[str]:
    described = estimate.answer.described
    return [*described.notes, *(described.count.notes if described.count else ())]


def _span(seconds: float) -> tuple[float, float, float]:
    """Return the expected time, and the range in which it probably lies."""
    low, high = _TIME_SPAN
    return seconds, low * seconds, high * seconds


def _span_json(seconds: float | None) -> dict[str, float] | None:
    return None if seconds is None else dict(zip(("expected", "low", "high"), _span(seconds), strict=True))


def _range(text: Callable[[float], str], expected: float, low: float, high: float) -> str:
    return f"{text(expected)} ({text(low)} to {text(high)})"


def _gib(n_bytes: float) -> str:
    return f"{n_bytes / 2**30:,.2f}"


def _switch(step: Step) -> str:
    return "on" if step.checkpointing else "off"


def _batch(n_rows: int, step: Step, described: Description) -> str:
    if described.reads_images:
        return counted(n_rows, "image")
    return f"{counted(n_rows, 'row')} of {step.n_tokens:,} tokens"

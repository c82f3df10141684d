"""What `count`, `estimate` and `suggest` print: parameters, memory, what fits, time and price."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from autopeft.cli.printing import blocks_text, lines_of, table
from autopeft.report.formatting import duration, memory, percent
from autopeft.types import counted, rate

if TYPE_CHECKING:
    from autopeft.adapters import Count
    from autopeft.commands import StepEstimate, Suggestion
    from autopeft.estimate import Description, Limits, Step

_ENDS = ("low", "expected", "high")
_TIME_SPAN = (0.75, 1.0, 1.35)  # low to high, of the predicted time (benchmarks/studies/published_times.md)
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
    """Format an estimate: subject, memory, time, and what fits."""
    described, step, limits = estimate.answer.described, estimate.answer.step, estimate.answer.limits
    device = "a GPU" if estimate.on_gpu else "a CPU"
    if estimate.rates is not None:
        device = estimate.rates.name
    trained, quantized = _trained_params(estimate), _quantization(estimate)
    bits = "" if quantized == "none" else f", linear layers in {quantized}"
    subject = [
        f"{estimate.part.label} on {described.base_model}",
        f"{trained:,} trainable parameters of {described.base_params:,} "
        f"({percent(100 * trained / described.base_params)})",
        f"{_batch(step.n_rows, step, described)}, {estimate.dtype}{bits}, checkpointing "
        f"{_switch(step)}, {_LOOPS[estimate.like]} on {device}",
    ]
    memory = step.memory
    parts = {
        "weights": [memory.weights] * 3,
        "adapters, gradients, optimizer": [memory.trained] * 3,
        "activations": [memory.activations] * 3,
        "logits and loss": [memory.logits] * 3,
        f"allocator's reserve{'' if estimate.on_gpu else ', libraries'}": memory.reserve,
        "total": [memory.low, memory.expected, memory.high],
    }
    rows = [(part, *map(_gib, sizes)) for part, sizes in parts.items()]
    return blocks_text(
        lines_of(subject),
        table(("peak memory, GiB", *_ENDS), rows),
        lines_of([f"Memory is highest in this phase of a step: {memory.phase}."]),
        lines_of(_times(estimate)),
        lines_of(() if limits is None else _limits(limits, step, described)),
        lines_of(f"note: {note}" for note in _notes(estimate)),
    )


def _times(estimate: StepEstimate) -> Iterator[str]:
    """Write sentences about the time of a step, of a run and of a search."""
    step, described = estimate.answer.typical, estimate.answer.described
    if step.seconds is None:
        if estimate.n_steps is not None:
            yield f"A full run has {estimate.n_steps:,} steps."
        yield "The speed of a GPU that is not here is unknown; name a card, such as --device l4."
        return
    low, expected, high = (duration(share * step.seconds) for share in _TIME_SPAN)
    n_tokens = step.n_rows * step.n_tokens
    yield (
        f"A step of {_batch(step.n_rows, step, described)} takes {expected} ({low} to {high}); "
        f"{n_tokens / step.seconds:,.0f} {'images' if described.reads_images else 'tokens'} a second."
    )
    if estimate.run_seconds is None or estimate.search_runs is None:
        yield "Pass --data or --max-steps for the time of a run."
        return
    spent = _spent(estimate.run_seconds, estimate.price)
    yield f"A full run of {estimate.n_steps:,} steps takes {spent}, without evaluation."
    whole = _spent(estimate.search_runs * estimate.run_seconds, estimate.price)
    yield f"A search may take {estimate.search_runs:g} times as long: {whole}."


def _spent(seconds: float, price: float | None) -> str:
    """Write a time as low to high, with what it costs at a price per hour."""
    low, _, high = (share * seconds for share in _TIME_SPAN)
    words = f"{duration(low)} to {duration(high)}"
    if price is None:
        return words
    return f"{words} (price {price * low / 3600:,.2f} to {price * high / 3600:,.2f})"


def _limits(limits: Limits, step: Step, described: Description) -> Iterator[str]:
    from autopeft.estimate import MOST_ROWS

    whole = f"{_gib(limits.max_bytes)} GiB"
    if limits.fits:
        yield f"This fits into {whole}."
        more = " or more" if limits.most_rows == MOST_ROWS else ""
        rows = "images" if described.reads_images else f"rows of {step.n_tokens:,} tokens"
        yield f"Largest batch of {rows}: {limits.most_rows:,}{more}."
        if not described.reads_images:
            yield f"Longest row in a batch of {step.n_rows:,}: {limits.longest_row:,} tokens."
        return
    yield f"This does not fit into {whole}: {_gib(step.memory.high)} GiB may be needed."
    if limits.nearest is not None:
        yield f"The nearest settings that fit take {_gib(limits.nearest.memory.high)} GiB at most:"
        yield _flags(limits.nearest, described)
    else:
        yield "No settings of this model fit; take a smaller model, or a device with more memory."


def _flags(step: Step, described: Description) -> str:
    bits = "" if step.quantize == "none" else f"--quantize {step.quantize} "
    length = "" if described.reads_images else f" --max-length {step.n_tokens}"
    return f"{bits}--checkpointing {_switch(step)} --batch-size {step.n_rows}{length}"


def estimate_json(estimate: StepEstimate) -> dict[str, Any]:
    """Return an estimate as plain values; `peak_bytes` and `parts` are in bytes, unknown values are None."""
    described, step, limits = estimate.answer.described, estimate.answer.step, estimate.answer.limits
    typical, run_seconds = estimate.answer.typical, estimate.run_seconds
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
        "phase": step.memory.phase,
        "typical_length": typical.n_tokens,
        "step_seconds": _span(typical.seconds),
        "full_run_steps": estimate.n_steps,
        "full_run_seconds": _span(run_seconds),
        "search_full_runs": estimate.search_runs,
        "price_per_hour": None if run_seconds is None else estimate.price,
        "notes": _notes(estimate),
    }
    if limits is None:
        return content
    return {
        **content,
        "memory_bytes": limits.max_bytes,
        "fits": limits.fits,
        "most_rows": limits.most_rows,
        "longest_row": limits.longest_row,
        "nearest": limits.nearest and _step_json(limits.nearest, described),
    }


def _step_json(step: Step, described: Description) -> dict[str, Any]:
    memory = step.memory
    return {
        "batch_size": step.n_rows,
        "max_length": None if described.reads_images else step.n_tokens,
        "quantize": step.quantize,
        "checkpointing": step.checkpointing,
        "flops": step.flops,
        "peak_bytes": {name: getattr(memory, name) for name in _ENDS},
        "parts": {
            "weights": memory.weights,
            "trained": memory.trained,
            "activations": memory.activations,
            "logits_and_loss": memory.logits,
            "reserve": dict(zip(_ENDS, memory.reserve, strict=True)),
        },
    }


def suggestion_text(suggestion: Suggestion) -> str:
    """Format a suggestion, one fact a line."""
    estimated, config = suggestion.estimate, suggestion.config
    described, step = estimated.answer.described, estimated.answer.step
    at_once = "" if suggestion.accumulation_steps == 1 else f", {counted(step.n_rows, 'row')} at a time"
    memory = f"{_gib(step.memory.expected)} GiB, checkpointing {_switch(step)}"
    if (most := estimated.max_bytes) is not None:
        memory += f", {'of' if estimated.fits else 'which does not fit into'} {_gib(most)} GiB"
    elif step.n_rows > 1:
        memory += ", for all rows at once; with --device, how many at a time fit the card"
    learning_rate = rate(suggestion.learning_rate)
    if (span := suggestion.rate_range) is not None:
        learning_rate += f" ({rate(span[0])} to {rate(span[1])} costs about 0.001 nats)"
    facts = {
        "rank, alpha": f"{config.r}, {config.lora_alpha}",
        "learning rate": f"{learning_rate}, {suggestion.warmup} of warm-up, then linear to 0",
        "head's rate": "by the size of its inputs: see optimizer_for" if suggestion.output_layer else "",
        "step": f"{_batch(suggestion.batch_size, step, described)}{at_once}",
        "base model": "" if step.quantize == "none" else f"--quantize {step.quantize}",
        "memory": memory,
        "time": _suggested_time(suggestion),
        "servers": _servers(suggestion),
    }
    share = percent(100 * suggestion.trainable_params / described.base_params)
    params = f"{suggestion.trainable_params:,} parameters ({share})"
    count = described.count
    assert count is not None, "LoRA is not full fine-tuning"
    adapted = [name.replace("_", " ") for name, of in count.by_component.items() if of.adapted]
    where = "all linear layers" if suggestion.is_everywhere else " and ".join(adapted)
    fitting = []
    if not estimated.fits:
        cards = ", ".join(suggestion.fitting_cards) or "none of the cards that --device knows"
        needed = f"{_batch(step.n_rows, step, described)} may need {_gib(step.memory.high)} GiB"
        fitting = [f"{needed}, which {cards} {'have' if ',' in cards else 'has'}."]
    return blocks_text(
        lines_of([f"LoRA on {where} of {suggestion.base_model}: {params}"]),
        table((), [(name, fact) for name, fact in facts.items() if fact], n_texts=2),
        _coverage(count),
        lines_of([*(f"note: {note}" for note in _notes(estimated)), *fitting]),
    )


def _servers(suggestion: Suggestion) -> str:
    good = [name for name, warnings in suggestion.servers.items() if not warnings]
    facts = [f"no fault known for {', '.join(good)}"] if good else []
    for name, warnings in suggestion.servers.items():
        facts += [f"{name} {warning.text}" for warning in warnings]
    return "; ".join(facts)


def _suggested_time(suggestion: Suggestion) -> str:
    estimated = suggestion.estimate
    if estimated.seconds is None:
        device = "pass --device, such as a100-80gb"
        return device if estimated.n_steps is None else f"{estimated.n_steps:,} steps; {device}"
    if estimated.run_seconds is None:
        return f"{duration(estimated.seconds)} a step; pass --data for that of a run"
    price = _price(estimated)
    cost = "" if price is None else f", price {price:,.2f}"
    return f"{estimated.n_steps:,} steps in {duration(estimated.run_seconds)}{cost}"


def suggestion_json(suggestion: Suggestion) -> dict[str, Any]:
    """Return a suggestion as plain values."""
    estimated, step = suggestion.estimate, suggestion.estimate.answer.step
    count = estimated.answer.described.count
    assert count is not None, "LoRA is not full fine-tuning"
    return {
        "base_model": suggestion.base_model,
        "topology": count.topology,
        "components": {name: asdict(of) for name, of in count.by_component.items()},
        "trainable_params": suggestion.trainable_params,
        "r": suggestion.config.r,
        "lora_alpha": suggestion.config.lora_alpha,
        **suggestion.places,
        "learning_rate": suggestion.learning_rate,
        "learning_rate_range": suggestion.rate_range,
        "warmup_steps": suggestion.warmup_steps,
        "batch_size": suggestion.batch_size,
        "micro_batch_size": step.n_rows,
        "max_length": None if estimated.answer.described.reads_images else suggestion.max_length,
        "checkpointing": step.checkpointing,
        "peak_bytes": step.memory.expected,
        "quantize": step.quantize,
        "fits": None if estimated.max_bytes is None else estimated.fits,
        "seconds_per_step": estimated.seconds,
        "n_steps": estimated.n_steps,
        "seconds": estimated.run_seconds,
        "price": _price(estimated),
        "servers": {name: [each.text for each in found] for name, found in suggestion.servers.items()},
        "notes": _notes(estimated),
    }


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


def _price(estimate: StepEstimate) -> float | None:
    if estimate.run_seconds is None or estimate.price is None:
        return None
    return estimate.price * estimate.run_seconds / 3600


def _span(seconds: float | None) -> dict[str, float] | None:
    if seconds is None:
        return None
    return {end: share * seconds for end, share in zip(_ENDS, _TIME_SPAN, strict=True)}


def _gib(n_bytes: float) -> str:
    return f"{n_bytes / 2**30:,.2f}"


def _switch(step: Step) -> str:
    return "on" if step.checkpointing else "off"


def _batch(n_rows: int, step: Step, described: Description) -> str:
    if described.reads_images:
        return counted(n_rows, "image")
    return f"{counted(n_rows, 'row')} of {step.n_tokens:,} tokens"

"""What `count`, `estimate` and `suggest` print: parameters, memory, what fits, time and price."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from autopeft.cli.printing import lines_of, table
from autopeft.report.formatting import duration, memory, percent
from autopeft.types import rate

if TYPE_CHECKING:
    from autopeft.adapters import Count
    from autopeft.commands import StepEstimate, Suggestion
    from autopeft.estimate import Description, Limits, Step

_ENDS = ("low", "expected", "high")
_TIME_SPAN = (0.75, 1.0, 1.35)  # low to high, of the predicted time (benchmarks/studies/published_times.md)
_LOOPS = {"autopeft": "autopeft's trainer", "trainer": "the Trainer of transformers"}


def count_text(count: Count) -> str:
    """Write a count: the totals, and a table of the roles."""
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
    return _blocks(lines_of([title]), lines_of([totals]), roles, lines_of(f"note: {n}" for n in count.notes))


def estimate_text(estimate: StepEstimate) -> str:
    """Write an estimate: subject, memory, time, and what fits."""
    described, step, limits = estimate.answer.described, estimate.answer.step, estimate.answer.limits
    count, device = described.count, "a GPU" if estimate.on_gpu else "a CPU"
    if estimate.rates is not None:
        device = estimate.rates.name
    trained = described.base_params if count is None else count.trainable_params
    quantized = _bits_of(estimate)
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
    return _blocks(
        lines_of(subject),
        table(("peak memory, GiB", *_ENDS), rows),
        lines_of([f"Memory is highest in this phase of a step: {memory.phase}."]),
        lines_of(_times(estimate)),
        lines_of(() if limits is None else _limits(limits, step, described)),
        lines_of(f"note: {note}" for note in _notes(estimate)),
    )


def _blocks(*blocks: Sequence[str]) -> str:
    """Join blocks of lines, with an empty line between them."""
    return "\n\n".join("\n".join(block) for block in blocks if block)


def _gib(n_bytes: float) -> str:
    return f"{n_bytes / 2**30:,.2f}"


def _bits_of(estimate: StepEstimate) -> str:
    """Return how the base model is quantized, on request or in its checkpoint."""
    stored = estimate.answer.described.stored
    return estimate.answer.step.quantize if stored is None else stored.quantize


def _notes(estimate: StepEstimate) -> list[str]:
    described = estimate.answer.described
    return [*described.notes, *(described.count.notes if described.count else ())]


def _rows(n_rows: int, word: str = "row") -> str:
    return f"1 {word}" if n_rows == 1 else f"{n_rows:,} {word}s"


def _batch(n_rows: int, step: Step, described: Description) -> str:
    """Write what a step reads: rows of so many tokens, or images."""
    return (
        _rows(n_rows, "image") if described.reads_images else f"{_rows(n_rows)} of {step.n_tokens:,} tokens"
    )


def _switch(step: Step) -> str:
    return "on" if step.checkpointing else "off"


def _times(estimate: StepEstimate) -> Iterator[str]:
    """Write sentences about the time of a step, of a run and of a search."""
    step, run = estimate.answer.typical, estimate.run
    if step.seconds is None:
        if estimate.n_steps is not None:
            yield f"A full run has {estimate.n_steps:,} steps."
        yield "The speed of a GPU that is not here is unknown; name a card, such as --device l4."
        return
    low, expected, high = (duration(share * step.seconds) for share in _TIME_SPAN)
    described, n_tokens = estimate.answer.described, step.n_rows * step.n_tokens
    yield (
        f"A step of {_batch(step.n_rows, step, described)} takes {expected} ({low} to {high}); "
        f"{n_tokens / step.seconds:,.0f} {'images' if described.reads_images else 'tokens'} a second."
    )
    if run is None:
        yield "Pass --data or --max-steps for the time of a run."
        return
    spent, whole = _spent(run.seconds, run.price), run.search_runs * run.seconds
    yield f"A full run of {estimate.n_steps:,} steps takes {spent}, without evaluation."
    yield f"A search may take {run.search_runs:g} times as long: {_spent(whole, run.price)}."


def _spent(seconds: float, price: float | None) -> str:
    """Write a time as low to high, and its price if `price`, that of an hour, is known."""
    low, _, high = (share * seconds for share in _TIME_SPAN)
    words = f"{duration(low)} to {duration(high)}"
    if price is None:
        return words
    return f"{words} (price {price * low / 3600:,.2f} to {price * high / 3600:,.2f})"


def _limits(limits: Limits, step: Step, described: Description) -> Iterator[str]:
    """Write sentences about what fits into the memory."""
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
    elif limits.least is not None:
        high = _gib(limits.least.memory.high)
        yield f"No settings of this model fit; the smallest step takes {high} GiB at most:"
        yield _flags(limits.least, described)
        yield "Take a smaller model, or a device with more memory."


def _flags(step: Step, described: Description) -> str:
    """Write the flags for the settings of a step."""
    bits = "" if step.quantize == "none" else f"--quantize {step.quantize} "
    length = "" if described.reads_images else f" --max-length {step.n_tokens}"
    return f"{bits}--checkpointing {_switch(step)} --batch-size {step.n_rows}{length}"


def estimate_json(estimate: StepEstimate) -> dict[str, Any]:
    """Return an estimate as plain values; `peak_bytes` and `parts` are in bytes, unknown values are None."""
    described, step, limits = estimate.answer.described, estimate.answer.step, estimate.answer.limits
    count, typical, run = described.count, estimate.answer.typical, estimate.run
    content = {
        "base_model": described.base_model,
        "trained": estimate.part.label,
        "trainable_params": described.base_params if count is None else count.trainable_params,
        "head_params": 0 if count is None else count.head_params,
        "base_params": described.base_params,
        "dtype": estimate.dtype,
        "like": estimate.like,
        "device": "gpu" if estimate.on_gpu else "cpu",
        **_step_json(step, described),
        "quantize": _bits_of(estimate),
        "phase": step.memory.phase,
        "typical_length": typical.n_tokens,
        "step_seconds": _seconds_json(typical.seconds),
        "full_run_steps": estimate.n_steps,
        "full_run_seconds": run and _seconds_json(run.seconds),
        "search_full_runs": run and run.search_runs,
        "price_per_hour": run and run.price,
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
        "least": limits.least and _step_json(limits.least, described),
    }


def _seconds_json(seconds: float | None) -> dict[str, float] | None:
    if seconds is None:
        return None
    return {end: share * seconds for end, share in zip(_ENDS, _TIME_SPAN, strict=True)}


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
    """Write a suggestion, one fact a line."""
    estimated, config = suggestion.estimate, suggestion.config
    described, step = estimated.answer.described, estimated.answer.step
    share = percent(100 * suggestion.trainable_params / described.base_params)
    at_once = "" if suggestion.accumulation_steps == 1 else f", {_rows(step.n_rows)} at a time"
    memory = f"{_gib(step.memory.expected)} GiB, checkpointing {_switch(step)}"
    if (most := estimated.max_bytes) is not None:
        words = "of" if estimated.fits else "which does not fit into"
        memory = f"{memory}, {words} {_gib(most)} GiB"
    elif step.n_rows > 1:
        memory = f"{memory}, for all rows at once; with --device, how many at a time fit the card"
    rows = [
        ("rank, alpha", f"{config.r}, {config.lora_alpha}"),
        (
            "learning rate",
            f"{rate(suggestion.learning_rate)}, {suggestion.warmup} of warm-up, then linear to 0",
        ),
        *(
            [("head's rate", "by the size of its inputs: see optimizer_for")]
            if suggestion.output_layer
            else []
        ),
        ("step", f"{_batch(suggestion.batch_size, step, described)}{at_once}"),
        *([] if step.quantize == "none" else [("base model", f"--quantize {step.quantize}")]),
        ("memory", memory),
        ("time", _suggested_time(suggestion)),
        *([("served by", f"{', '.join(suggestion.servers)}, as it is")] if suggestion.servers else []),
    ]
    params = f"{suggestion.trainable_params:,} parameters ({share})"
    title = f"LoRA on all linear layers of {suggestion.base_model}: {params}"
    notes = lines_of(f"note: {note}" for note in _notes(estimated))
    if not estimated.fits:
        cards = ", ".join(suggestion.fitting_cards) or "none of the cards that --device knows"
        needed = f"{_batch(step.n_rows, step, described)} may need {_gib(step.memory.high)} GiB"
        notes = [*notes, *lines_of([f"{needed}, which {cards} {'have' if ',' in cards else 'has'}."])]
    return "\n".join([*lines_of([title]), "", *table((), rows, n_texts=2), *([""] if notes else []), *notes])


def _suggested_time(suggestion: Suggestion) -> str:
    estimated = suggestion.estimate
    seconds, run, n_steps = estimated.seconds, estimated.run, estimated.n_steps
    if seconds is None:
        device = "pass --device, such as a100-80gb"
        return device if n_steps is None else f"{n_steps:,} steps; {device}"
    if run is None:
        return f"{duration(seconds)} a step; pass --data for that of a run"
    price = "" if run.price is None else f", price {run.price * run.seconds / 3600:,.2f}"
    return f"{n_steps:,} steps in {duration(run.seconds)}{price}"


def suggestion_json(suggestion: Suggestion) -> dict[str, Any]:
    """Return a suggestion as plain values."""
    estimated = suggestion.estimate
    step, run, most = estimated.answer.step, estimated.run, estimated.max_bytes
    return {
        "base_model": suggestion.base_model,
        "trainable_params": suggestion.trainable_params,
        "r": suggestion.config.r,
        "lora_alpha": suggestion.config.lora_alpha,
        **suggestion.places,
        "learning_rate": suggestion.learning_rate,
        "warmup_steps": suggestion.warmup_steps,
        "batch_size": suggestion.batch_size,
        "micro_batch_size": step.n_rows,
        "max_length": None if estimated.answer.described.reads_images else suggestion.max_length,
        "checkpointing": step.checkpointing,
        "peak_bytes": step.memory.expected,
        "quantize": step.quantize,
        "fits": None if most is None else estimated.fits,
        "seconds_per_step": estimated.seconds,
        "n_steps": estimated.n_steps,
        "seconds": None if run is None else run.seconds,
        "price": None if run is None or run.price is None else run.price * run.seconds / 3600,
        "notes": _notes(estimated),
    }

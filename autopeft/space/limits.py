"""What a space loses to the user's limits and servers, and by how much a measured plan breaks a limit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from autopeft.errors import SpecError
from autopeft.extension import Method
from autopeft.records import LimitSpec, OptionValue
from autopeft.space.spaces import MethodSpace, MixPart, Space

SERVERS = ("vllm", "tgi", "llama.cpp")


def limited(space: Space, limits: LimitSpec, methods: Mapping[str, Method]) -> Space:
    """The part of a space that keeps to the limits that are known before anything is measured.

    Ranks of low-rank matrices are capped, and no other numbers, such as those of virtual tokens. Methods
    that do not merge, or whose declared step time is above the limit, are dropped with the mixes of them.
    What DoRA or an option adds to a step shows when it is measured.

    Raises:
        SpecError: Nothing of the space is left.
    """

    def narrow(name: str, part: MethodSpace) -> MethodSpace | None:
        method = methods[name]
        is_quick = limits.max_step_time is None or method.step_time <= limits.max_step_time
        if not is_quick or (limits.mergeable and not method.merges):
            return None
        return _capped(part, limits.max_rank) if limits.max_rank and method.low_rank else part

    narrowed = space.narrowed(narrow)
    if not narrowed.arms:
        requested = limits.model_dump(exclude_defaults=True)
        listed = ", ".join(f"{name} {value}" for name, value in requested.items())
        raise SpecError(
            f"Nothing of the search space keeps to the limits {listed}; "
            "raise or drop one of them, or choose another --space."
        )
    return narrowed


def _capped(part: MethodSpace, cap: int) -> MethodSpace | None:
    """The part under a cap on its ranks; None where no rank is left."""
    if part.size:
        kept = tuple(size for size in part.size if size <= cap)
        return part.model_copy(update={"size": kept}) if any(kept) else None
    if part.min_rank is not None and part.min_rank > cap:
        return None
    return part.model_copy(update={"max_rank": cap if part.max_rank is None else min(part.max_rank, cap)})


def servable(space: Space, servers: Sequence[str], methods: Mapping[str, Method]) -> Space:
    """The part of a space that some servers read, by an exact export of the trained adapter.

    A method loses the options that some of the `SERVERS` given do not read. A mix with such an option is
    dropped.

    Raises:
        SpecError: Nothing of the space is read by all servers.
    """

    def narrow(name: str, part: MethodSpace) -> MethodSpace | None:
        def is_served(options: Mapping[str, OptionValue]) -> bool:
            return set(servers) <= set(methods[name].servers(options))

        options = {
            option: tuple(value for value in values if is_served({option: value}))
            for option, values in part.options.items()
        }
        if not is_served({}) or not all(options.values()):
            return None
        if isinstance(part, MixPart) and options != part.options:
            return None
        return part.model_copy(update={"options": options})

    narrowed = space.narrowed(narrow)
    if not narrowed.arms:
        raise SpecError(
            f"Nothing of the search space is read by {', '.join(servers)}, which take plain LoRA alone; "
            "choose a space with LoRA, or leave --serve-on out and export a merged model."
        )
    return narrowed


def violations(
    limits: LimitSpec,
    *,
    peak_bytes: int,
    seconds_per_step: float,
    lora_seconds_per_step: float,
    adapter_bytes: int,
) -> dict[str, float]:
    """Limit -> by how much a measured plan breaks it: at most 0 within the limit, 1.0 at twice the limit.

    One scale for all limits, as Optuna's `Trial.set_constraint` takes it; limits that are None are left out.
    `peak_bytes` are those of one training run, `adapter_bytes` those of the adapter's file.
    `lora_seconds_per_step`, > 0, is for plain LoRA at the same sites and on the same machine.

    Example:
        >>> violations(
        ...     LimitSpec(max_peak_bytes=100, max_step_time=2.0),
        ...     peak_bytes=150, seconds_per_step=1.0, lora_seconds_per_step=1.0, adapter_bytes=0,
        ... )
        {'max_step_time': -0.5, 'max_peak_bytes': 0.5}
    """
    measured = {
        "max_step_time": (seconds_per_step / lora_seconds_per_step, limits.max_step_time),
        "max_peak_bytes": (peak_bytes, limits.max_peak_bytes),
        "max_adapter_bytes": (adapter_bytes, limits.max_adapter_bytes),
    }
    return {name: value / limit - 1.0 for name, (value, limit) in measured.items() if limit is not None}

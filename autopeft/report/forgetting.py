"""What was forgotten: the loss on general text before and after adaptation, in rows, words and JSON.

Differences are after − before in nats per token, so that **above 0 the plan forgot**.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from autopeft.records import Forgetting, GeneralLoss, to_json

_MAX_EXPONENT = 700.0  # beyond it there is no float


@dataclass(frozen=True, kw_only=True)
class Forgot:
    """One plan, under all of its names. `spread` is the standard deviation over its seeds, None for one."""

    names: str
    n_seeds: int
    loss: float
    spread: float | None
    perplexity: float
    difference: float


def forgot(found: Forgetting | None) -> tuple[Forgot, ...]:
    """The plans that were measured on general text; a plan with two names stands once."""
    if found is None:
        return ()
    names: dict[tuple[Any, ...], list[str]] = {}
    for own in found.plans:
        if own.losses:
            names.setdefault((own.plan, own.seeds, own.losses), []).append(own.name)
    return tuple(
        Forgot(
            names=", ".join(called),
            n_seeds=len(losses),
            loss=fmean(losses),
            spread=_spread(losses),
            perplexity=perplexity(fmean(losses)),
            difference=fmean(losses) - found.base_loss,
        )
        for (_, _, losses), called in names.items()
    )


def forgetting_line(found: Forgetting) -> str:
    """All of it in one line for the terminal."""
    rows = [f"{row.names} {change(row.difference, row.spread)}" for row in forgot(found)]
    return (
        f"forgetting on {found.text.n_tokens:,} tokens of {found.text.name}: loss {found.base_loss:.4f} of "
        f"the base model, {'; '.join(rows) or 'no plan measured'} (above 0 it forgot)"
    )


def forgetting_json(found: Forgetting | None) -> dict[str, Any] | None:
    """For result.json: losses in nats per token, by seed and their mean; None where none was measured."""
    if found is None:
        return None
    return {
        "text": to_json(found.text),
        "base": {"loss": found.base_loss, "perplexity": perplexity(found.base_loss)},
        **{own.name: _numbers(own, found.base_loss) for own in found.plans if own.losses},
        "seconds": found.seconds,
    }


def _numbers(own: GeneralLoss, base_loss: float) -> dict[str, Any]:
    loss = fmean(own.losses)
    return {
        "digest": own.plan.digest,
        "loss_mean": loss,
        "loss_std": _spread(own.losses),
        "perplexity": perplexity(loss),
        "difference": loss - base_loss,
        "seeds": list(own.seeds),
        "losses": list(own.losses),
    }


def change(difference: float, spread: float | None) -> str:
    """A difference with its sign, and the spread over seeds where there is one.

    Example:
        >>> change(0.01234, 0.002), change(-0.5, None)
        ('+0.0123 ± 0.0020', '−0.5000')
    """
    text = f"{difference:+.4f}".replace("-", "−")
    return text if spread is None else f"{text} ± {spread:.4f}"


def perplexity(loss: float) -> float:
    """The exponential of a loss in nats."""
    return math.exp(min(loss, _MAX_EXPONENT))


def _spread(losses: Iterable[float]) -> float | None:
    values = list(losses)
    return stdev(values) if len(values) > 1 else None

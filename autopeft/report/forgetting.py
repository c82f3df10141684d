"""Forgetting: the loss on general text before and after adaptation, in rows, words and JSON.

Differences are after minus before in nats per token: **above 0 the plan forgot**.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from autopeft.records import Forgetting, GeneralLoss, to_json
from autopeft.report.words import change

_LARGEST_LOSS = 700.0  # nats; the exponential of more overflows a float


@dataclass(frozen=True, kw_only=True)
class Forgot:
    """One plan under all of its names: means over seeds, and their standard deviation (None for one seed)."""

    names: str
    n_seeds: int
    loss: float
    spread: float | None
    perplexity: float
    difference: float


def forgot(forgetting: Forgetting | None) -> tuple[Forgot, ...]:
    """The plans that were measured on general text; a plan with two names appears once."""
    if forgetting is None:
        return ()
    names: dict[tuple[Any, ...], list[str]] = {}
    for measured in forgetting.plans:
        if measured.losses:
            names.setdefault((measured.plan, measured.seeds, measured.losses), []).append(measured.name)
    base_loss = forgetting.base_loss
    return tuple(_forgot(", ".join(shared), losses, base_loss) for (*_, losses), shared in names.items())


def forgetting_line(forgetting: Forgetting) -> str:
    """Losses before and after in one line for the terminal."""
    rows = [f"{row.names} {change(row.difference, row.spread)}" for row in forgot(forgetting)]
    return (
        f"forgetting on {forgetting.text.n_tokens:,} tokens of {forgetting.text.name}: "
        f"loss {forgetting.base_loss:.4f} of the base model, "
        f"{'; '.join(rows) or 'no plan measured'} (above 0 it forgot)"
    )


def forgetting_json(forgetting: Forgetting | None) -> dict[str, Any] | None:
    """For result.json: losses in nats per token, by seed and their mean; None if nothing was measured."""
    if forgetting is None:
        return None
    return {
        "text": to_json(forgetting.text),
        "base": {"loss": forgetting.base_loss, "perplexity": perplexity(forgetting.base_loss)},
        **{row.name: _numbers(row, forgetting.base_loss) for row in forgetting.plans if row.losses},
        "seconds": forgetting.seconds,
    }


def _numbers(measured: GeneralLoss, base_loss: float) -> dict[str, Any]:
    row = _forgot(measured.name, measured.losses, base_loss)
    return {
        "plan_id": measured.plan.digest,
        "loss_mean": row.loss,
        "loss_std": row.spread,
        "perplexity": row.perplexity,
        "difference": row.difference,
        "seeds": list(measured.seeds),
        "losses": list(measured.losses),
    }


def perplexity(loss: float) -> float:
    """The exponential of a loss in nats."""
    return math.exp(min(loss, _LARGEST_LOSS))


def _forgot(names: str, losses: Sequence[float], base_loss: float) -> Forgot:
    loss, n_seeds = fmean(losses), len(losses)
    return Forgot(
        names=names,
        n_seeds=n_seeds,
        loss=loss,
        spread=stdev(losses) if n_seeds > 1 else None,
        perplexity=perplexity(loss),
        difference=loss - base_loss,
    )

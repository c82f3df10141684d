"""The winner's curse: what the search promised against what was confirmed."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Optimism:
    """Gains over the baseline; larger is better, in units of the metric.

    `promised` is that of the search split, `confirmed` that of fresh seeds on the confirm split, and
    `lost` the first less the second.
    """

    promised: float
    confirmed: float
    lost: float
    n_tried: int
    sentence: str


def optimism(
    *,
    promised: float,
    confirmed: float,
    std_error: float,
    n_tried: int,
    metric: str,
    in_points: bool = True,
) -> Optimism:
    """How much of the promised gain was confirmed.

    The best of many noisy numbers is too good, the more of them there were and the less they differ in
    truth. A search run is shorter too, so a difference can be one of length as well.

    Args:
        promised: Best plan less baseline on the search split, at the last rung.
        confirmed: The same as confirmed (`Verdict.mean_difference`).
        std_error: Of `confirmed`, > 0.
        n_tried: Plans that the best was picked from, >= 1.
        metric: What it is, for the sentence.
        in_points: Whether to tell it in points (0.01).

    Example:
        >>> optimism(
        ...     promised=0.03, confirmed=0.01, std_error=0.004, n_tried=40, metric="accuracy"
        ... ).sentence[-42:]
        'confirmed were +1.0, so 2.0 were optimism.'
    """
    assert std_error > 0 and n_tried >= 1, (std_error, n_tried)
    lost = promised - confirmed
    factor, places, unit = (100.0, 1, f"points of {metric}") if in_points else (1.0, 3, f"in {metric}")
    first, second, gap = (factor * value for value in (promised, confirmed, lost))
    told = f"as the best of {n_tried} plans on its own split; confirmed were {second:+.{places}f}"
    if lost > std_error:
        end = f"so {gap:.{places}f} were optimism."
    elif lost < -std_error:
        end = "more than it promised."
    else:
        end = "the same within one standard error."
    sentence = f"The search promised {first:+.{places}f} {unit} over the baseline, {told}, {end}"
    return Optimism(promised=promised, confirmed=confirmed, lost=lost, n_tried=n_tried, sentence=sentence)

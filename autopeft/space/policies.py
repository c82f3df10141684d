"""Policies: a dozen choices, from which an allocation makes a plan."""

from __future__ import annotations

from dataclasses import dataclass

from autopeft.records import Arm, OptionPairs


@dataclass(frozen=True, kw_only=True)
class Policy:
    """One point of a search space, from which an allocation makes a plan.

    Its choices are those of `MethodSpace`. `exponent` counts only where `ranks_by` is score. `options` leaves
    defaults out. `learning_rate` is the peak rate of the first part; the others train at a multiple of it.
    `beside` holds the other parts of a mix: each takes those of its sites that are left, and all share one
    budget.
    """

    method: str
    placement: str = "all"
    layer_share: float = 1.0
    layers_by: str = "last"
    exponent: float = 0.0
    ranks_by: str = "score"
    options: OptionPairs = ()
    max_rank: int | None = None
    learning_rate: float
    beside: tuple[Policy, ...] = ()

    @property
    def arm(self) -> Arm:
        """Method × placement family, such as `lora/attention`, the parts of a mix joined by &."""
        families = []
        for part in (self, *self.beside):
            # The scale rule is left out: it is a tuned number of the method.
            shown = [(n, value) for n, value in part.options if n != "scale_rule" and value is not False]
            options = [name if value is True else str(value) for name, value in shown]
            families.append(f"{'+'.join([part.method, *options])}/{part.placement}")
        methods = tuple(part.method for part in (self, *self.beside))
        return Arm(kind="sampled", label=" & ".join(families), methods=methods)

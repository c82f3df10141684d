"""LoKr: the Kronecker product of a small matrix and a low-rank one beside a frozen linear map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from peft import LoKrConfig, PeftConfig
from peft.tuners.lokr.layer import factorization

from autopeft.methods._plain import double_scale, no_options, no_servers
from autopeft.methods._sources import COMPARISON
from autopeft.methods._targets import lycoris_config, only_plain_linear
from autopeft.records import Adapter, OptionValue, Site


@dataclass(frozen=True)
class LoKr:
    """LoKr (Yeh et al. 2023, LyCORIS, arXiv:2309.14859), the first factor whole, the second of rank r."""

    name: str = "lokr"
    label: str = "LoKr"
    short_label: str = "LoKr"
    summary: str = "Kronecker product of a small matrix (a × c) and a low-rank one (b × d); n = c d, m = a b"
    formula: str = "a c + r (b + d)"
    ranked: bool = True
    shared: bool = False
    identity_at_start: bool = True
    merges: bool = True
    learning_rate_range: tuple[float, float] = (1e-3, 3e-2)
    learning_rate_source: str = (
        "3e-3 in peft's method comparison (0.466 with a quarter of LoRA's parameters); MiniLM-L6, 44 "
        "steps: best of five at 5.5e-3, chance at 9e-2 (reports/LOG.md, 2026-11-25)"
    )
    step_time: float = 1.37
    step_time_source: str = COMPARISON
    choices: Mapping[str, tuple[OptionValue, ...]] = field(default_factory=dict)
    servers = no_servers
    options = no_options
    scale = double_scale

    def refusal(self, site: Site) -> str | None:
        """`nn.Linear` with plain weights only: its tuner knows no Conv1D and no packed ones."""
        return only_plain_linear(site, "LoKr")

    def cost(self, site: Site, rank: int, options: Mapping[str, OptionValue]) -> int:
        """The small factor, and two low-rank ones or, from half of the larger side on, all of the other."""
        if rank == 0:
            return 0
        (a, b), (c, d) = _factors(site.out_features), _factors(site.in_features)
        return a * c + (rank * (b + d) if 2 * rank < max(b, d) else b * d)

    def ranks(self, site: Site, options: Mapping[str, OptionValue]) -> Sequence[int]:
        """The ranks at which the second factor is low-rank and cheaper than whole; 1 where there is none."""
        (_, b), (_, d) = _factors(site.out_features), _factors(site.in_features)
        useful = [r for r in range(1, (max(b, d) + 1) // 2) if r * (b + d) < b * d]
        return useful or (1,)

    def configs(self, adapters: Sequence[Adapter]) -> tuple[PeftConfig, ...]:
        """One config."""
        return (lycoris_config(LoKrConfig, adapters),)


def _factors(n: int) -> tuple[int, int]:
    """The two factors, as equal as may be, that `peft` parts a number into; the first is the smaller."""
    smaller, larger = factorization(n)
    return int(smaller), int(larger)


PART = LoKr()

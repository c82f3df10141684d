"""BitFit: the biases of linear maps and norms are trained, as an added vector that starts at zero."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from peft import BeftConfig, PeftConfig

from autopeft.methods._bias import NAME as _OURS
from autopeft.methods._bias import BiasConfig
from autopeft.methods._plain import no_rank, no_scale, no_servers
from autopeft.methods._sources import COMPARISON
from autopeft.methods._targets import sites_pattern
from autopeft.records import Adapter, OptionValue, Site


@dataclass(frozen=True)
class BitFit:
    """BitFit (Ben Zaken et al. 2022, arXiv:2106.10199).

    An added bias moves exactly as the bias itself would, leaves the base model alone, and
    merges. Through `peft`'s BEFT tuner at `nn.Linear`, through one of our own at norms and Conv1D
    (to load its weights, `import autopeft.methods.bitfit` first). Where we differ: the biases of keys are
    left out, for they add the same to all scores of a query, which softmax takes off again.
    """

    name: str = "bitfit"
    label: str = "BitFit"
    short_label: str = "bias"
    summary: str = "the bias of a linear map or a norm"
    formula: str = "m"
    ranked: bool = False
    shared: bool = False
    identity_at_start: bool = True
    merges: bool = True
    learning_rate_range: tuple[float, float] = (1e-3, 1.5e-2)
    learning_rate_source: str = (
        "around the 1e-4 to 1e-2 of the paper; MiniLM-L6, 44 steps: best of five at 5.5e-3, "
        "chance at 2.2e-2 (reports/LOG.md, 2026-11-25)"
    )
    step_time: float = 0.94
    step_time_source: str = COMPARISON
    choices: Mapping[str, tuple[OptionValue, ...]] = field(default_factory=dict)
    servers = no_servers
    scale = no_scale
    ranks = no_rank

    def refusal(self, site: Site) -> str | None:
        """Linear maps and norms that have a bias, keys apart; a new bias could not be merged."""
        if site.kind not in ("linear", "conv1d", "norm"):
            return "BitFit takes linear maps and norms"
        if not site.has_bias:
            return "there is no bias to train"
        # Rotary positions make a key's bias count a little; a site does not say which positions it has.
        return "softmax takes the bias of keys off again" if site.role == "k" else None

    def options(self, site: Site, **choices: OptionValue) -> Mapping[str, OptionValue]:
        """`tuner` where it is ours."""
        return {} if site.kind == "linear" else {"tuner": _OURS}

    def cost(self, site: Site, rank: int, options: Mapping[str, OptionValue]) -> int:
        """One number per output."""
        return site.out_features

    def configs(self, adapters: Sequence[Adapter]) -> tuple[PeftConfig, ...]:
        """One config for each tuner in use."""
        ours = [adapter.site for adapter in adapters if dict(adapter.options).get("tuner") == _OURS]
        others = [adapter.site for adapter in adapters if adapter.site not in ours]
        found: list[PeftConfig] = []
        if others:
            found.append(BeftConfig(target_modules=sites_pattern(others)))
        if ours:
            found.append(BiasConfig(target_modules=sites_pattern(ours)))
        return tuple(found)


PART = BitFit()

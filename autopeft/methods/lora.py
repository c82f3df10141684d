"""LoRA: a trained low-rank update beside a frozen linear map; with DoRA and rsLoRA as options."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from peft import LoraConfig, PeftConfig

from autopeft.methods._targets import sites_pattern
from autopeft.records import Adapter, OptionValue, Site


@dataclass(frozen=True)
class Lora:
    """LoRA (Hu et al. 2021, arXiv:2106.09685); option `dora` (Liu et al. 2024, arXiv:2402.09353)."""

    name: str = "lora"
    summary: str = "low-rank update beside a linear map; options: DoRA magnitude, rsLoRA scale"
    ranked: bool = True
    identity_at_start: bool = True
    merges: bool = True
    learning_rate_range: tuple[float, float] = (5e-4, 1.5e-2)
    learning_rate_source: str = (
        "pilot on MiniLM-L6 / TREC-6: best at 4e-3, cliff at 8e-3 with scale 2; about ten times the "
        "full fine-tuning rate (Thinking Machines 2025, LoRA Without Regret)"
    )

    def fits(self, site: Site) -> bool:
        """Linear maps only, in either storage order."""
        return site.kind in ("linear", "conv1d")

    def options(self, site: Site, **choices: OptionValue) -> Mapping[str, OptionValue]:
        """`dora` where chosen; nothing else stays with the adapter."""
        return {"dora": True} if choices.get("dora") else {}

    def cost(self, site: Site, rank: int, options: Mapping[str, OptionValue]) -> int:
        """Rank times (in + out), plus one magnitude per output with DoRA."""
        if rank == 0:
            return 0
        magnitude = site.out_features if options.get("dora") else 0
        return rank * (site.in_features + site.out_features) + magnitude

    def max_rank(self, site: Site) -> int:
        """Beyond min(in, out) a rank adds parameters but no freedom."""
        return min(site.in_features, site.out_features)

    def configs(self, adapters: Sequence[Adapter]) -> tuple[PeftConfig, ...]:
        """One config for the adapters with DoRA and one for those without."""
        groups: dict[bool, list[Adapter]] = defaultdict(list)
        for adapter in adapters:
            groups[bool(dict(adapter.options).get("dora"))].append(adapter)
        return tuple(_config(group, dora=dora) for dora, group in sorted(groups.items()))


def _config(adapters: Sequence[Adapter], *, dora: bool) -> LoraConfig:
    """Ranks and alphas by pattern; alpha / r is each adapter's own scale, never left to a default.

    `use_rslora` stays off: `peft` 0.21 does not combine it with patterns, and readers of
    the file see the scale that was trained with.
    """
    settings = {adapter.site: (adapter.rank, _alpha(adapter)) for adapter in adapters}
    (rank, alpha), _ = Counter(sorted(settings.values())).most_common(1)[0]
    sites_of: dict[tuple[int, float], list[str]] = defaultdict(list)
    for site, setting in settings.items():
        sites_of[setting].append(site)
    others = {
        "^" + sites_pattern(sites): own for own, sites in sorted(sites_of.items()) if own != (rank, alpha)
    }
    return LoraConfig(
        r=rank,
        lora_alpha=alpha,
        target_modules=sites_pattern(settings),
        rank_pattern={pattern: own[0] for pattern, own in others.items()},
        alpha_pattern={pattern: own[1] for pattern, own in others.items()},
        lora_dropout=0.0,
        use_dora=dora,
    )


def _alpha(adapter: Adapter) -> float:
    """Alpha as a whole number where it is one, as other tools expect."""
    alpha = adapter.scale * adapter.rank
    return round(alpha) if math.isclose(alpha, round(alpha)) else alpha


PART = Lora()

"""LoRA: a trained low-rank update beside a frozen linear map; with DoRA and rsLoRA as options."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from peft import LoraConfig, PeftConfig

from autopeft.methods._targets import by_pattern, only_maps, sites_pattern, whole
from autopeft.records import Adapter, OptionValue, Site


@dataclass(frozen=True)
class Lora:
    """LoRA (Hu et al. 2021, arXiv:2106.09685).

    Options: `dora` (Liu et al. 2024, arXiv:2402.09353), `scale_rule` (rslora, Kalajdzievski 2023,
    arXiv:2312.03732, or constant), `init` orthogonal or eva (Paischl et al. 2024, arXiv:2410.07170;
    without its redistribution of ranks, which would change what a plan costs).
    """

    name: str = "lora"
    label: str = "LoRA"
    short_label: str = "LoRA"
    summary: str = "low-rank update beside a linear map; options: DoRA, rsLoRA scale, orthogonal or EVA start"
    formula: str = "r (n + m), DoRA: + m"
    ranked: bool = True
    shared: bool = False
    identity_at_start: bool = True
    merges: bool = True
    learning_rate_range: tuple[float, float] = (5e-4, 1.5e-2)
    learning_rate_source: str = (
        "pilot on MiniLM-L6 / TREC-6: best at 4e-3, cliff at 8e-3 with scale 2; about ten times the "
        "full fine-tuning rate (Thinking Machines 2025, LoRA Without Regret)"
    )
    step_time: float = 1.0
    step_time_source: str = "the measure itself; DoRA took 1.26 in peft's method comparison on Llama-3.2-3B"
    choices: Mapping[str, tuple[OptionValue, ...]] = field(
        default_factory=lambda: {
            "scale_rule": ("rslora", "constant"),
            "dora": (False, True),
            "init": ("default", "orthogonal", "eva"),
        }
    )

    def refusal(self, site: Site) -> str | None:
        """Linear maps in either storage order, and experts that are kept in one parameter."""
        return None if site.kind == "parameter" else only_maps(site, "LoRA")

    def servers(self, options: Mapping[str, OptionValue]) -> tuple[str, ...]:
        """All of them, through the export `uniform-lora`, but for DoRA and for experts in one parameter."""
        return () if options.get("dora") or options.get("experts") else ("vllm", "tgi", "llama.cpp")

    def options(self, site: Site, **choices: OptionValue) -> Mapping[str, OptionValue]:
        """`dora` and `init` where chosen, neither for experts; the scale holds its rule already.

        A quantised map has no orthogonal start: `peft` 0.21.2 makes it of the type of the stored weights.
        """
        if site.kind == "parameter":
            return {"experts": site.copies}
        chosen: dict[str, OptionValue] = {"dora": True} if choices.get("dora") else {}
        init = choices.get("init", "default")
        if init != "default" and not (init == "orthogonal" and site.quantised):
            chosen["init"] = init
        return chosen

    def scale(self, rank: int, **choices: OptionValue) -> float:
        """About 4 / sqrt(r) by rsLoRA (arXiv:2312.03732), or a constant 2, the habit of alpha = 2 r.

        Alpha is the nearest whole number, since axolotl and LLaMA-Factory read no others.

        The best learning rate of ranks 1, 4 and 16 on all maps was 4e-3, 4e-3 and 2e-3 by the first rule
        and 8e-3, 4e-3 and 1e-3 to 2e-3 by the second (reports/LOG.md, 2026-11-25): only the first lets
        sites of one plan have different ranks at one rate. The 4 is chosen by hand: they agree at rank 4.
        """
        if choices.get("scale_rule") == "constant" or not rank:
            return 2.0
        return round(4.0 * math.sqrt(rank)) / rank

    def cost(self, site: Site, rank: int, options: Mapping[str, OptionValue]) -> int:
        """Rank times (in + out) for each expert, plus one magnitude per output with DoRA."""
        if rank == 0:
            return 0
        magnitude = site.out_features if options.get("dora") else 0
        return site.copies * rank * (site.in_features + site.out_features) + magnitude

    def ranks(self, site: Site, options: Mapping[str, OptionValue]) -> Sequence[int]:
        """Up to min(in, out): beyond it a rank adds no freedom. Even ones for the orthogonal start."""
        step = 2 if options.get("init") == "orthogonal" else 1
        return range(step, min(site.in_features, site.out_features) + 1, step)

    def configs(self, adapters: Sequence[Adapter]) -> tuple[PeftConfig, ...]:
        """One config for each combination of options in use."""
        groups: dict[tuple[bool, str], list[Adapter]] = defaultdict(list)
        for adapter in adapters:
            own = dict(adapter.options)
            init = str(own.get("init", "default"))
            # EVA's values come from data, once the adapter is there; until then it starts as usual.
            groups[bool(own.get("dora")), "default" if init == "eva" else init].append(adapter)
        return tuple(_config(group, dora=dora, init=init) for (dora, init), group in sorted(groups.items()))


def _config(adapters: Sequence[Adapter], *, dora: bool, init: str) -> LoraConfig:
    """Ranks and alphas by pattern; alpha / r is each adapter's own scale, never left to a default.

    `use_rslora` stays off: `peft` 0.21 does not combine it with patterns, and readers of
    the file see the scale that was trained with.
    """
    rank, ranks = by_pattern({adapter.site: adapter.rank for adapter in adapters})
    alpha, alphas = by_pattern({adapter.site: whole(adapter.scale * adapter.rank) for adapter in adapters})
    experts = sorted(adapter.site for adapter in adapters if dict(adapter.options).get("experts"))
    maps = [adapter.site for adapter in adapters if adapter.site not in experts]
    return LoraConfig(
        r=rank,
        lora_alpha=alpha,
        target_modules=sites_pattern(maps) if maps else [],  # None would be the family's default
        target_parameters=experts or None,
        rank_pattern=ranks,
        alpha_pattern=alphas,
        lora_dropout=0.0,
        use_dora=dora,
        init_lora_weights=True if init == "default" else init,
    )


PART = Lora()

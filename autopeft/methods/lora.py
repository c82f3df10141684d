"""LoRA: a trained low-rank update next to a frozen linear layer; with DoRA and rsLoRA as options.

Hu et al. 2021, arXiv:2106.09685. Options: `dora` (Liu et al. 2024, arXiv:2402.09353), `scale_rule` (rslora,
Kalajdzievski 2023, arXiv:2312.03732, or constant), `init` orthogonal.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby

from peft import LoraConfig, PeftConfig

from autopeft.methods._shared import alphas_of, by_pattern, only_linear_layers, targets_pattern
from autopeft.plugins import Method, Options
from autopeft.types import Adapter, OptionValue, Target


def _refusal(target: Target) -> str | None:
    if target.by_weight and target.quantized:
        return "peft takes this layer for an expert, by its name, and adapts no quantized parameters"
    return None if target.kind == "parameter" else only_linear_layers(target)


def _options(target: Target, **choices: OptionValue) -> Options:
    """Set `dora` and `init` if chosen, or for experts only their number.

    Nor have layers that are named by their weights, which `peft` adapts as it does experts.

    The scale rule is not an option of an adapter, which has the scale itself. A quantized layer has no
    orthogonal start: `peft` 0.21.2 makes it of the type of the stored weights.
    """
    if target.kind == "parameter":
        return {"experts": target.copies}
    if target.by_weight:
        return {"by_weight": True}
    options: dict[str, OptionValue] = {"dora": True} if choices.get("dora") else {}
    init = choices.get("init", "default")
    if init != "default" and not (init == "orthogonal" and target.quantized):
        options["init"] = init
    return options


def _scale(rank: int, **choices: OptionValue) -> float:
    """Return about 4 / sqrt(r) by rsLoRA (arXiv:2312.03732), or a constant 2, the habit of alpha = 2 r.

    Alpha is the nearest whole number, since axolotl and LLaMA-Factory read only whole ones.

    The best learning rate of ranks 1, 4 and 16 on all linear layers was 4e-3, 4e-3 and 2e-3 by the first rule
    and 8e-3, 4e-3 and 1e-3 to 2e-3 by the second (research/2026-11-25-lora-scale.md): only the first lets
    target modules of one plan have different ranks at one rate. The 4 is heuristic: they agree there.
    Over ranks 1 to 64 on other data the best rate moved by 1.0 octave by the first and 2.9 by the second; by
    a constant alpha (8 / r) it moved by 0.7, up, at higher losses (benchmarks/studies/learning_rates.md).
    """
    if choices.get("scale_rule") == "constant" or not rank:
        return 2.0
    return round(4.0 * math.sqrt(rank)) / rank


def _cost(target: Target, rank: int, options: Options) -> int:
    """Two factors for each expert, plus one magnitude per output with DoRA."""
    magnitude = target.out_features if options.get("dora") and rank else 0
    return target.copies * rank * (target.in_features + target.out_features) + magnitude


def _ranks(target: Target, options: Options) -> Sequence[int]:
    """Up to min(in, out), beyond which a rank adds no freedom; even ones for the orthogonal start."""
    step = 2 if options.get("init") == "orthogonal" else 1
    return range(step, min(target.in_features, target.out_features) + 1, step)


def _configs(adapters: Sequence[Adapter]) -> tuple[PeftConfig, ...]:
    """Build one config for each combination of DoRA and start in use, with ranks and alphas by pattern.

    `use_rslora` stays off: `peft` 0.21 does not combine it with patterns, and alpha / r is then the scale
    that was trained with.
    """

    def dora_and_init(adapter: Adapter) -> tuple[bool, str]:
        options = dict(adapter.options)
        return bool(options.get("dora")), str(options.get("init", "default"))

    configs = []
    for (dora, init), members in groupby(sorted(adapters, key=dora_and_init), dora_and_init):
        # `peft` knows a layer that it takes for an expert by the name of its weight.
        group = [
            replace(a, target=f"{a.target}.weight") if dict(a.options).get("by_weight") else a
            for a in members
        ]
        rank, ranks = by_pattern({adapter.target: adapter.rank for adapter in group})
        alpha, alphas = alphas_of(group)
        parameters = sorted(a.target for a in group if dict(a.options).keys() & {"experts", "by_weight"})
        layers = [adapter.target for adapter in group if adapter.target not in parameters]
        config = LoraConfig(
            r=rank,
            lora_alpha=alpha,
            target_modules=targets_pattern(layers) if layers else [],  # None would be the family's default
            target_parameters=parameters or None,
            rank_pattern=ranks,
            alpha_pattern=alphas,
            lora_dropout=0.0,
            use_dora=dora,
            init_lora_weights=True if init == "default" else init,
        )
        configs.append(config)
    return tuple(configs)


PLUGIN = Method(
    name="lora",
    label="LoRA",
    summary="low-rank update next to a linear layer; options: DoRA, rsLoRA scale, orthogonal start",
    formula="r (n + m), DoRA: + m",
    learning_rate_range=(6e-4, 2.4e-2),
    learning_rate_source="best measured on MiniLM-L6 (384) 3.2e-3 to 4e-3, cliff from 8e-3; on SmolLM2 "
    "(576) 4.7e-3, on MPNet (768) 4.2e-3; best published 1.6e-3 in this scale (peft's method comparison, "
    "3072); 0.002 nats above the best rate on 24 models of 1 to 550 B (Tinker's sweep)",
    # Of the four best rates above; Tinker's sweep did not choose it (research/2026-12-02-language-models.md).
    width_exponent=0.44,
    step_time=1.0,  # DoRA took 1.26
    choices={"scale_rule": ("rslora", "constant"), "dora": (False, True), "init": ("default", "orthogonal")},
    choice_labels={"dora=True": "DoRA", "init=orthogonal": "orthogonal start"},
    refusal=_refusal,
    options=_options,
    ranks=_ranks,
    scale=_scale,
    cost=_cost,
    takes_rank_pattern=True,
    configs=_configs,
    # Through the export `uniform-lora`; no server reads DoRA or experts in one parameter.
    servers=lambda options: (
        () if any(map(options.get, ("dora", "experts", "by_weight"))) else ("vllm", "sglang", "llama.cpp")
    ),
)

"""Converted LoRA: the change of every weight, whatever the method, as the nearest LoRA.

`peft` has `convert_to_lora` for some methods; of a mix it takes the sites of the last config alone
(peft 0.21.2: reloading such an adapter was 90 % off). Here the change is the merged weight less the
base model's, and the truncated SVD is the best of its rank (Eckart and Young 1936).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from autopeft.adapters import type_counts
from autopeft.errors import SpecError
from autopeft.exports.parts import problems
from autopeft.exports.parts.adapter import in_head
from autopeft.exports.parts.merging import merge
from autopeft.exports.parts.uniform import Factors, uniform_problems, write_uniform
from autopeft.extension import ExportSource, NeededBase
from autopeft.store import fresh_folder

_ENERGY = 0.99  # of the squared singular values: an error of a tenth at most; chosen by hand


@dataclass(frozen=True)
class ConvertedLora:
    """Changes of linear maps as LoRA of `rank`, or of the least rank that keeps `energy` at each site."""

    name: str = "converted-lora"
    summary: str = "any change of linear maps as the nearest LoRA (SVD), with its error; --rank or --energy"
    needs_base: NeededBase = "weights"
    bounds: tuple[str, ...] = ("rank", "energy")

    def problems(self, source: ExportSource) -> tuple[str, ...]:
        """Adapters of anything but linear maps: norms, biases, added modules."""
        kinds = [name for name in type_counts(source.configs) if name in problems.NOT_IN_LORA]
        return (
            *problems.adapts_nothing(source.configs),
            *(f"{name} trains {problems.NOT_IN_LORA[name]}" for name in kinds),
            *problems.unmergeable(source.configs),
            *problems.stacked_experts(source.configs),
            *problems.rewrites_base(source.configs),
            *problems.trained_whole(source),
            *problems.untrained(source),
        )

    def export(self, source: ExportSource, out: Path) -> tuple[str, ...]:
        """Write a uniform LoRA and conversion.json: rank and relative error of each site, and in total.

        Raises:
            SpecError: More than linear maps changed (IA3 scales biases too), or nothing did.
        """
        is_stacked = problems.stacked_experts(source.configs) and not problems.unmergeable(source.configs)
        instead = problems.WITHOUT_EXPERTS if is_stacked else "Use --to merged or --to native"
        problems.refuse(self.name, self.problems(source), instead=instead)
        assert source.base is not None, "the base model is needed"
        before = {name: tensor.detach().clone() for name, tensor in source.base.state_dict().items()}
        changes = _changes(before, merge(source), source)
        factors: Factors = {}
        costs = {}
        for site, change in changes.items():
            factors[site], costs[site] = _nearest(change, rank=source.rank, energy=source.energy or _ENERGY)
        norms = {site: float(change.norm()) for site, change in changes.items()}
        lost = (costs[site]["relative_error"] * norm for site, norm in norms.items())
        total = math.hypot(*lost) / math.hypot(*norms.values())
        with fresh_folder(out) as fresh:
            notes = write_uniform(factors, source, fresh)
            text = json.dumps({"relative_error": total, "sites": costs}, indent=2)
            (fresh / "conversion.json").write_text(text + "\n", encoding="utf-8")
        worst = max(costs, key=lambda site: costs[site]["relative_error"])
        error = costs[worst]["relative_error"]
        note = f"relative error {total:.2e} in total, {error:.2e} at worst ({worst}); see conversion.json"
        exact = () if uniform_problems(source) else ("--to uniform-lora is exact for this plain LoRA",)
        return (note, *exact, *notes)


def _changes(
    before: Mapping[str, torch.Tensor], merged: nn.Module, source: ExportSource
) -> dict[str, torch.Tensor]:
    """Site -> change of its weight, shape (out, in), where there is one."""
    modules = dict(merged.named_modules())
    changes, odd = {}, []
    for name, tensor in merged.state_dict().items():
        if in_head(name, source.head) or name not in before or torch.equal(tensor, before[name]):
            continue
        site, _, kind = name.rpartition(".")
        if kind == "weight" and isinstance(modules[site], nn.Linear | Conv1D):
            change = (tensor - before[name]).float().cpu()
            changes[site] = change.T if isinstance(modules[site], Conv1D) else change
        else:
            odd.append(name)
    if odd:
        raise SpecError(
            f"LoRA cannot hold the change of {', '.join(odd[:3])} ({len(odd)} in all), which "
            f"{', '.join(type_counts(source.configs))} made; use --to merged."
        )
    if not changes:
        raise SpecError(
            "No linear map differs from the base model's; train the plan longer, or use --to native."
        )
    return changes


def _nearest(
    change: torch.Tensor, *, rank: int | None, energy: float
) -> tuple[tuple[torch.Tensor, torch.Tensor], dict[str, float]]:
    """A and B of the best approximation, and its rank and relative error."""
    left, values, right = torch.linalg.svd(change, full_matrices=False)
    floor = float(values[0]) * max(change.shape) * torch.finfo(values.dtype).eps
    most = max(1, int((values > floor).sum()))
    if rank is None:
        kept = values.double().square().cumsum(0)
        rank = int((kept < energy * kept[-1]).sum()) + 1
    rank = min(rank, most)
    root = values[:rank].sqrt()
    down, up = root[:, None] * right[:rank], left[:, :rank] * root
    error = float((change - up @ down).norm() / change.norm())
    return (down, up), {"rank": rank, "relative_error": error}


PART = ConvertedLora()

"""The sites that a forward pass of the task reaches; adapters elsewhere would spend a budget on nothing.

A task may leave out parts of a model: the images' tower where the inputs are texts, a head for another task.
Some modules are called, and no adapter fits there all the same: a router that gives a tuple, a norm with a
gate beside its input, or one over channels that are not the last dimension. Some are never called, because
another module reads their weight directly, some only in training. Two short passes, forward and back, in eval
mode and in train mode, tell all of these.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from autopeft.model.base import BaseModel
from autopeft.model.checks import PASS_ERRORS, keeping_attention
from autopeft.model.classes import reads_images
from autopeft.model.devices import forked_rng
from autopeft.model.quantising import rows_independent
from autopeft.records import Site, layer_name

log = logging.getLogger(__name__)

_TEXT = "The quick brown fox jumps over the lazy dog, and the dog does not mind it."
_SIDE = 64  # pixels of an image, before the processor resizes it
_SHOWN = 3  # names in a message


def keep_reached_sites(base: BaseModel, *, auto_class: str) -> None:
    """Drop the sites of a base model that a forward pass does not reach, or where no adapter fits.

    A site is reached if its module is called with one tensor and gives another one of as many numbers as the
    site has outputs, on which the logits depend. All experts of a layer are kept if one of them is reached:
    which of them a token visits is chance. Evaluation and training must both reach a site. Where the short
    pass fails, all sites are kept.
    Sites with inputs of four dimensions are noted. `auto_class` names the transformers class of the task.
    """
    modules = base.sites
    try:
        with rows_independent(base.module), keeping_attention(base.module), base.autocast():
            features = _features(base, auto_class)
            reached, with_4d_inputs = _reached(base.module, modules, features)
            reached = _trained(base, modules, features, reached=reached)
    except PASS_ERRORS as error:
        log.debug("%s: all sites are kept, as a short forward pass failed: %s", base.name, error)
        return
    base.sites = tuple(
        replace(site, has_4d_inputs=True) if site.name in with_4d_inputs else site for site in base.sites
    )
    dropped = [site.name for site in modules if _without_expert(site.name) not in reached]
    if dropped:
        base.sites = tuple(site for site in base.sites if site.name not in dropped)
        names = list(dict.fromkeys(re.sub(r"\.\d+(?=\.|$)", ".*", name) for name in dropped))
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        text = "%s: %d modules take no part in this task, or no adapter fits there (%s%s)."
        log.info(text, base.name, len(dropped), ", ".join(names[:_SHOWN]), more)


def _reached(
    module: nn.Module, sites: Sequence[Site], features: Mapping[str, Tensor]
) -> tuple[set[str], set[str]]:
    """The names of reached sites, without the numbers of experts, and of those with inputs of 4 dimensions.

    A zero is added to each output; the logits depend on those outputs whose zero has a gradient.
    """
    zeros: dict[str, list[Tensor]] = defaultdict(list)
    with_4d_inputs: set[str] = set()

    def add_zero(_: nn.Module, args: Any, kwargs: Any, output: Any, *, site: Site) -> Tensor | None:
        fits = len(args) == 1 and not kwargs and getattr(output, "shape", ())[-1:] == (site.out_features,)
        # Experts in one parameter are adapted in their weights, whatever their module takes.
        if not isinstance(output, Tensor) or not (fits or site.kind == "parameter"):
            return None
        if site.kind in ("linear", "conv1d") and args[0].ndim == 4:
            with_4d_inputs.add(site.name)
        zero = torch.zeros((), device=output.device, requires_grad=True)
        zeros[_without_expert(site.name)].append(zero)
        return output + zero

    with contextlib.ExitStack() as hooks, torch.enable_grad():
        for site in sites:
            owner = module.get_submodule(
                site.name.rpartition(".")[0] if site.kind == "parameter" else site.name
            )
            hook = owner.register_forward_hook(partial(add_zero, site=site), with_kwargs=True)
            hooks.callback(hook.remove)
        logits: Tensor = module(**features).logits
    every = [(name, zero) for name, several in zeros.items() for zero in several]
    if not every:  # which torch.autograd refuses
        return set(), with_4d_inputs
    gradients = torch.autograd.grad(logits.float().sum(), [zero for _, zero in every], allow_unused=True)
    reached = {name for (name, _), gradient in zip(every, gradients, strict=True) if gradient is not None}
    return reached, with_4d_inputs


def _trained(
    base: BaseModel, sites: Sequence[Site], features: Mapping[str, Tensor], *, reached: set[str]
) -> set[str]:
    """The reached names that a pass in train mode reaches too; all of them where that pass fails.

    A layer without any reached site was skipped by chance (LayerDrop), and keeps its sites.
    """
    try:
        with forked_rng(base.device):
            in_training, _ = _reached(base.to_train(base.module), sites, features)
    except PASS_ERRORS as error:
        log.debug("%s: a short pass in train mode failed: %s", base.name, error)
        return reached
    finally:
        base.module.eval()
    layers = {layer_name(name) for name in in_training}
    return {name for name in reached if name in in_training or layer_name(name) not in layers}


def _without_expert(name: str) -> str:
    """The name without the number of an expert: `mlp.experts.3.up_proj`, `experts.expert_3.wi`."""
    return re.sub(r"(\bexperts?[._])\d+", r"\1", name)


def _features(base: BaseModel, auto_class: str) -> dict[str, Tensor]:
    """The features of one example, as the task makes them: a grey image, or a text."""
    if reads_images(auto_class):
        image = torch.full((3, _SIDE, _SIDE), 127, dtype=torch.uint8)
        made = dict(base.tokenizer(images=[image], return_tensors="pt"))
        made["pixel_values"] = made["pixel_values"].float()
        return {name: tensor.to(base.device) for name, tensor in made.items()}
    limit = base.max_tokens
    cut = {} if limit is None else {"truncation": True, "max_length": limit}
    encoded = base.tokenizer(_TEXT, return_tensors="pt", **cut)
    features = {name: encoded[name].to(base.device) for name in ("input_ids", "attention_mask")}
    if auto_class == "AutoModelForMultipleChoice":
        return {name: tensor[:, None] for name, tensor in features.items()}
    if auto_class == "AutoModelForSeq2SeqLM":
        features["decoder_input_ids"] = features["input_ids"]
    return features

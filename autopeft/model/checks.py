"""Checks of a loaded model, and of which target modules a forward pass reaches."""

from __future__ import annotations

import contextlib
import copy
import logging
import re
from collections import defaultdict
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from autopeft.errors import ModelError, TargetError, reason_of
from autopeft.model.base import BaseModel
from autopeft.model.checkpoint_source import reads_images
from autopeft.model.components import is_task_model
from autopeft.model.devices import is_out_of_memory
from autopeft.model.quantization import rows_independent
from autopeft.types import Target, counted, listed

# Raised by models for inputs that do not fit, and if a library or a kernel is missing.
PASS_ERRORS = (
    *(RuntimeError, ValueError, TypeError, LookupError, AttributeError, AssertionError),
    *(ImportError, ArithmeticError, OSError),
)

_TO_ENCODER = ("encoder_attn", "crossattention")  # attention of a decoder to the outputs of its encoder
_TEXT = "The quick brown fox jumps over the lazy dog, and the dog does not mind it."
_SIDE = 64  # pixels of an image, before the processor resizes it

log = logging.getLogger(__name__)


def prepare_base(base: BaseModel, *, auto_class: str) -> None:
    """Check a loaded base model, and narrow `base.targets` to those that the task reaches.

    Logs what cannot be adapted, and which weights the checkpoint does not have. `auto_class` names the
    transformers class of the task. Without a tokenizer all target modules are kept. Raises ModelError or
    TargetError for a model that cannot be used.
    """
    if auto_class == "AutoModelForCausalLM":
        with base.autocast():
            require_causal(base.module, base.name)
    if base.model_type == "xlnet":  # its batches have the tokens first, and its classifier reads padding
        raise ModelError(f"{base.name} is an XLNet, which is not supported; use another, such as RoBERTa.")
    if base.tokenizer is not None:
        base.targets = reachable_targets(base, auto_class=auto_class)
    require_targets(base)
    for remark in base.left_out:
        log.info("%s", remark)
    if base.lacking:
        log.warning("%s", base.lacking)


def usable_tokenizer(tokenizer: Any, name: str) -> Any:
    """Return the tokenizer, or a copy that pads with the end-of-text token.

    Raises ModelError if no token can pad, or if the tokenizer has no words: transformers makes such a
    tokenizer if the tokenizer's files are missing.
    """
    if len(tokenizer) <= len(set(tokenizer.all_special_ids)):
        raise ModelError(
            f"The tokenizer of {name} has no words, only {len(tokenizer)} special tokens; put its files "
            "(such as tokenizer.json) next to the weights."
        )
    if tokenizer.pad_token_id is None and tokenizer.eos_token_id is None:
        raise ModelError(
            f"The tokenizer of {name} has neither a padding nor an end-of-text token; "
            "set pad_token in its tokenizer_config.json."
        )
    if tokenizer.pad_token_id is None:
        tokenizer = copy.deepcopy(tokenizer)
        tokenizer.pad_token = tokenizer.eos_token
        log.info("%s has no padding token; its end-of-text token pads.", name)
    return tokenizer


def pad_with(config: Any, pad_token_id: int) -> None:
    """Set the padding token in the configs of a model and of its text model."""
    for each in text_configs(config):
        each.pad_token_id = pad_token_id


def text_configs(config: Any) -> tuple[Any, ...]:
    """Return a model's config and that of its text model; for most models the two are one."""
    try:
        return config, config.get_text_config()
    except ValueError:  # there are several
        return (config,)


def require_causal(module: Any, name: str) -> None:
    """Raise ModelError if a causal loss of this model would be meaningless.

    That is a decoder without its encoder, as transformers makes of BART and Whisper, or a model that fails on
    four tokens or sees the token that it should predict.
    """
    config, remedy = module.config, "use a decoder such as GPT-2, Llama or Qwen"
    has_encoder = getattr(config, "encoder_layers", None) or getattr(config, "num_encoder_layers", None)
    if has_encoder or any(child.rpartition(".")[2] in _TO_ENCODER for child, _ in module.named_modules()):
        raise ModelError(
            f"{name} is an encoder with a decoder, and {type(module).__name__} is only its decoder; use "
            f"--task text2text-generation, or {remedy}."
        )
    device = next(module.parameters()).device
    texts = [torch.tensor([[1, 2, 3, last]], device=device) for last in (4, 5)]
    try:
        with torch.no_grad(), rows_independent(module):
            logits, changed = (module.eval()(input_ids=ids).logits[:, :3] for ids in texts)
    except PASS_ERRORS as error:
        if is_out_of_memory(error):
            raise
        raise ModelError(
            f"{name} does not run four tokens as a language model ({reason_of(error)}); {remedy}."
        ) from error
    rounding = 4 * torch.finfo(logits.dtype).eps * float(logits.abs().max())  # a few roundings in bfloat16
    if not torch.allclose(logits, changed, atol=max(1e-4, rounding), rtol=1e-3):
        raise ModelError(
            f"{name} is not a causal language model: its predictions depend on the tokens that come after; "
            f"{remedy}."
        )


def require_targets(base: BaseModel) -> None:
    """Raise TargetError for a model without target modules, or with a task head of unknown name."""
    if not base.targets:
        raise TargetError(
            f"{base.name} (model type {base.model_type!r}) has no linear layer or norm to adapt; "
            "use a transformer made of nn.Linear or Conv1D layers."
        )
    if is_task_model(base.module) and not base.head_names:
        raise TargetError(
            f"The task head of {base.name} ({type(base.module).__name__}) has an unknown name, so that "
            "nothing would learn the labels; use another model."
        )


def reachable_targets(base: BaseModel, *, auto_class: str) -> tuple[Target, ...]:
    """Return the target modules that a short pass reaches.

    An adapter elsewhere would spend the budget on nothing: a task may leave out modules of a model, and some
    modules are never called because another one reads their weight. A target module is reached if

    1. it is called with one tensor and returns one with as many channels as it has outputs (a router returns
       a tuple, some norms take a gate too),
    2. the logits depend on what it returns.

    If one expert of a layer is reached, all are: it depends on the token which of them it visits. If the
    pass fails, all target modules are returned. `auto_class` names the transformers class of the task.
    """
    try:
        with rows_independent(base.module), base.autocast():
            features = example_features(base, auto_class)
            reached = _reached(base, features)
    except PASS_ERRORS as error:
        log.debug("%s: all target modules are kept, as a short forward pass failed: %s", base.name, error)
        return base.targets
    dropped = [target.name for target in base.targets if _without_expert(target.name) not in reached]
    if dropped:
        names = list(dict.fromkeys(re.sub(r"\.\d+(?=\.|$)", ".*", name) for name in dropped))
        text = "%s: no adapter fits, or would affect this task, at %s (%s)."
        log.info(text, base.name, counted(len(dropped), "module"), listed(names))
    return tuple(target for target in base.targets if target.name not in dropped)


def _reached(base: BaseModel, features: Mapping[str, Tensor]) -> set[str]:
    """Return the names of reached targets, without the numbers of experts.

    A zero is added to each output; the logits depend on those outputs whose zero has a gradient.
    """
    zeros: dict[str, list[Tensor]] = defaultdict(list)

    def add_zero(_: nn.Module, args: Any, kwargs: Any, output: Any, *, target: Target) -> Tensor | None:
        is_linear = (
            len(args) == 1 and not kwargs and getattr(output, "shape", ())[-1:] == (target.out_features,)
        )
        # Experts in one parameter are adapted in their weights, whatever arguments their module takes.
        if not isinstance(output, Tensor) or not (is_linear or target.kind == "parameter"):
            return None
        zero = torch.zeros((), device=output.device, requires_grad=True)
        zeros[_without_expert(target.name)].append(zero)
        return output + zero

    with contextlib.ExitStack() as hooks, torch.enable_grad():
        for target in base.targets:
            owner = target.name.rpartition(".")[0] if target.kind == "parameter" else target.name
            hook = base.module.get_submodule(owner).register_forward_hook(
                partial(add_zero, target=target), with_kwargs=True
            )
            hooks.callback(hook.remove)
        logits: Tensor = base.module(**features).logits
    named_zeros = [(name, zero) for name, calls in zeros.items() for zero in calls]
    if not named_zeros:  # torch.autograd refuses an empty list
        return set()
    gradients = torch.autograd.grad(
        logits.float().sum(), [zero for _, zero in named_zeros], allow_unused=True
    )
    pairs = zip(named_zeros, gradients, strict=True)
    return {name for (name, _), gradient in pairs if gradient is not None}


def _without_expert(name: str) -> str:
    """Drop the number of an expert from a name such as `mlp.experts.3.up_proj`."""
    return re.sub(r"(\bexperts?[._])\d+", r"\1", name)


def example_features(base: BaseModel, auto_class: str, text: str = _TEXT) -> dict[str, Tensor]:
    """Make the features of one example, a gray image or a text."""
    if reads_images(auto_class):
        image = torch.full((3, _SIDE, _SIDE), 127, dtype=torch.uint8)
        pixels = dict(base.tokenizer(images=[image], return_tensors="pt"))
        pixels["pixel_values"] = pixels["pixel_values"].float()
        return {name: tensor.to(base.device) for name, tensor in pixels.items()}
    cut = {} if base.max_tokens is None else {"truncation": True, "max_length": base.max_tokens}
    encoded = base.tokenizer(text, return_tensors="pt", **cut)
    features = {name: encoded[name].to(base.device) for name in ("input_ids", "attention_mask")}
    if auto_class == "AutoModelForSeq2SeqLM":
        features["decoder_input_ids"] = features["input_ids"]
    return features

"""Which methods give the same outputs on bitsandbytes' maps as on plain maps with the same weights.

    pip install bitsandbytes && python reports/studies/quantised_methods.py

A toy Llama in 4 and in 8 bits beside its dequantised twin. Every method is put on all maps and norms with
random weights, for one forward and one backward pass. Prints the distance of the two outputs as a share of
what the adapters change; some thousandths come from the rounding of the quantised kernels.
"""

from __future__ import annotations

import copy
from dataclasses import replace

import bitsandbytes as bnb
import torch
import transformers
from bitsandbytes.functional import dequantize_4bit
from torch import nn

from autopeft.adapters import compile_plan
from autopeft.extension import Method, discover
from autopeft.model import BaseModel
from autopeft.records import Adapter, Plan

METHODS = discover("autopeft.methods")
INPUTS = {"input_ids": torch.arange(1, 33).reshape(4, 8), "attention_mask": torch.ones(4, 8).long()}


def twins(*, n_bits: int) -> tuple[nn.Module, nn.Module]:
    """The same model in few bits, and with the dequantised weights."""
    torch.manual_seed(0)
    size = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = transformers.LlamaConfig(**size, vocab_size=64, num_hidden_layers=2, pad_token_id=0)
    plain = transformers.LlamaForSequenceClassification(config)
    packed = copy.deepcopy(plain)
    setattr(packed, f"is_loaded_in_{n_bits}bit", True)  # by which peft chooses its layers
    for name, child in list(packed.model.named_modules()):
        if isinstance(child, nn.Linear):
            parent, _, last = name.rpartition(".")
            layer, weight = pack(child, n_bits=n_bits)
            setattr(packed.model.get_submodule(parent), last, layer)
            plain.model.get_submodule(name).weight.data.copy_(weight)
    return packed, plain


def pack(layer: nn.Linear, *, n_bits: int) -> tuple[nn.Module, torch.Tensor]:
    """A map in few bits, and its weight as it is read back."""
    kind = bnb.nn.Linear4bit if n_bits == 4 else bnb.nn.Linear8bitLt
    settings = {"compute_dtype": torch.float32, "quant_type": "nf4"} if n_bits == 4 else {}
    if n_bits == 8:
        settings["has_fp16_weights"] = False
    made = kind(layer.in_features, layer.out_features, bias=False, **settings)
    if n_bits == 4:
        held = bnb.nn.Params4bit(layer.weight.data, requires_grad=False, quant_type="nf4")
        made.weight = held._quantize(torch.device("cpu"))
        return made, dequantize_4bit(made.weight.data, made.weight.quant_state).float()
    held = bnb.nn.Int8Params(layer.weight.data.half(), requires_grad=False, has_fp16_weights=False)
    made.weight = held.to("cpu")
    return made, made.weight.SCB[:, None] * made.weight.data.float() / 127


def outputs(module: nn.Module, method: Method) -> torch.Tensor | None:
    """Logits with a method on every site whose unquantised twin it fits; None where there is no such site."""
    base = BaseModel(module, None, name="toy", untrained=frozenset())
    sites = [replace(site, quantised=False) for site in base.sites if site.kind != "model"]
    adapters, cost = [], 0
    for site in (site for site in sites if method.refusal(site) is None):
        options = method.options(site)
        rank = list(method.ranks(site, options))[:3][-1] if method.ranked else 0
        adapters.append(
            Adapter(method=method.name, site=site.name, rank=rank, options=tuple(options.items()))
        )
        cost += method.cost(site, rank, options)
    if not adapters:
        return None
    plan = Plan(adapters=tuple(adapters), learning_rate=1e-3, trainable_params=cost)
    configs = compile_plan(plan, METHODS).configs
    with base.attached(configs, plan=plan, task_type="SEQ_CLS", seed=0) as model:
        generator = torch.Generator().manual_seed(1)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data.add_(0.05 * torch.randn(parameter.shape, generator=generator))
        logits = model.eval()(**INPUTS).logits
        logits.sum().backward()
        return logits.detach()


def main() -> None:
    """Print one line per method and number of bits."""
    for n_bits in (4, 8):
        packed, plain = twins(n_bits=n_bits)
        with torch.no_grad():
            before = plain.eval()(**INPUTS).logits
        for name, method in METHODS.items():
            try:
                seen, expected = outputs(packed, method), outputs(plain, method)
            except Exception as error:
                print(n_bits, name, type(error).__name__, str(error).splitlines()[0][:90])
            else:
                if seen is not None and expected is not None:
                    print(n_bits, name, f"{float((seen - expected).norm() / (expected - before).norm()):.4f}")


if __name__ == "__main__":
    main()

"""Tiny random base models of the common architectures, and adapters on them."""

from __future__ import annotations

from types import SimpleNamespace

import torch
import transformers

from autopeft.model import BaseModel, Precision, load
from autopeft.types import Adapter, DataSpec, ModelSpec, Plan, PlanDocument, TaskSpec
from toys.words import CONTEXT, VOCABULARY

ARCHITECTURES = ("bert", "gpt2", "llama")
# The architectures that methods are tested on; `-lm` are language models, without a task head.
EVERY_ARCHITECTURE = (*ARCHITECTURES, "t5", "vit", "llama-lm", "t5-lm", "moe-lm")
AUTO_CLASSES = {
    "vit": "AutoModelForImageClassification",
    "gpt2-lm": "AutoModelForCausalLM",
    "llama-lm": "AutoModelForCausalLM",
    "t5-lm": "AutoModelForSeq2SeqLM",
    "moe-lm": "AutoModelForCausalLM",
}
PEFT_TASKS = {
    "vit": None,
    "gpt2-lm": "CAUSAL_LM",
    "llama-lm": "CAUSAL_LM",
    "t5-lm": "SEQ_2_SEQ_LM",
    "moe-lm": "CAUSAL_LM",
}


def toy_config(architecture, *, hidden=16, dropout=0.0):
    """Two layers; weights ten times wider than usual, so that a random model mixes its tokens."""
    return CONFIGS[architecture](hidden, dropout)


TEXT = {"vocab_size": len(VOCABULARY), "initializer_range": 0.2}
TOKEN_IDS = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}


def layers_of(hidden, *, heads=2):
    return {
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": 2,
        "num_attention_heads": heads,
    }


def bert_config(hidden, dropout):
    drop = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    shape = {"pad_token_id": 0, "max_position_embeddings": CONTEXT, **layers_of(hidden)}
    return transformers.BertConfig(**TEXT, **shape, **drop)


def vit_config(hidden, dropout):
    drop = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    images = {"image_size": 8, "patch_size": 4, "initializer_range": 0.2}
    return transformers.ViTConfig(**layers_of(hidden), **images, **drop)


def t5_config(hidden, dropout):
    """A gated T5 with two maps up; the layers of encoder and decoder have the same numbers."""
    return transformers.T5Config(
        vocab_size=len(VOCABULARY),
        pad_token_id=0,
        eos_token_id=3,
        decoder_start_token_id=0,
        d_model=hidden,
        d_ff=2 * hidden,
        d_kv=hidden // 2,
        num_layers=2,
        num_heads=2,
        feed_forward_proj="gated-gelu",
        dropout_rate=dropout,
    )


def gpt2_config(hidden, dropout):
    """Its linear layers are Conv1D: weights of shape (in, out)."""
    drop = {"resid_pdrop": dropout, "embd_pdrop": dropout, "attn_pdrop": dropout}
    shape = {"n_embd": hidden, "n_layer": 2, "n_head": 2, "n_positions": CONTEXT}
    return transformers.GPT2Config(**TEXT, **TOKEN_IDS, **shape, **drop)


def moe_config(hidden, _dropout):
    """A Mixtral, whose experts are kept in two parameters per layer."""
    experts = {"num_key_value_heads": 1, "num_local_experts": 3, "num_experts_per_tok": 2}
    shape = {"max_position_embeddings": CONTEXT, **layers_of(hidden)}
    return transformers.MixtralConfig(**TEXT, **TOKEN_IDS, **shape, **experts)


def llama_config(hidden, _dropout):
    """Grouped queries: k and v give half of what q gives."""
    shape = {"num_key_value_heads": 2, "max_position_embeddings": CONTEXT, **layers_of(hidden, heads=4)}
    return transformers.LlamaConfig(**TEXT, **TOKEN_IDS, **shape)


CONFIGS = {
    "bert": bert_config,
    "vit": vit_config,
    "t5": t5_config,
    "gpt2": gpt2_config,
    "moe": moe_config,
    "llama": llama_config,
}


def toy_base(architecture, *, tokenizer=None, seed=0, dtype="float32", **settings):
    """A fresh base model of a seed in `dtype`; with a head of two labels unless it is a language model."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = toy_config(architecture.removesuffix("-lm"), **settings)
        auto_class = AUTO_CLASSES.get(architecture, "AutoModelForSequenceClassification")
        module = getattr(transformers, auto_class).from_config(config)
    heads = ("classifier.", "score.", "classification_head.")
    untrained = frozenset(name for name in module.state_dict() if name.startswith(heads))
    precision = Precision(dtype=dtype)
    module.to(precision.torch_dtype)
    name = f"toy {architecture}"
    base = BaseModel(module, tokenizer, name=name, untrained=untrained, precision=precision)
    base.widen_head()
    return base


def adapters_of(method, targets, *, rank, **choices):
    """One adapter at every target module that the method fits."""
    return [
        Adapter(
            method=method.name,
            target=target.name,
            rank=_rank(method, target, rank, method.options(target, **choices)),
            scale=method.scale(rank),
            options=tuple(method.options(target, **choices).items()),
        )
        for target in targets
        if method.refusal(target) is None
    ]


def _rank(method, target, wanted, options):
    """The largest rank up to the wanted one that a method takes there, else its smallest."""
    ranks = method.ranks(target, options)
    return max((rank for rank in ranks if rank <= wanted), default=ranks[0]) if method.ranked else 0


def state_of(module):
    """The state, apart from weights, that a trial must not change: objects, flags, gradients, hooks."""
    return SimpleNamespace(
        modules=[(name, id(child), child.training) for name, child in module.named_modules()],
        parameters=[(name, id(p), p.requires_grad, p.grad) for name, p in module.named_parameters()],
        hooks=[(len(child._forward_hooks), len(child._forward_pre_hooks)) for child in module.modules()],
        attributes=sorted(vars(module)),
    )


def plan_of_queries(model_dir, data_dir, *, max_steps):
    """The plan of a LoRA of rank 2 on all queries of a toy BERT, with its data."""
    spec = ModelSpec(id=str(model_dir))
    base = load(spec, auto_class="AutoModelForSequenceClassification", label_names=("a", "b"), device="cpu")
    targets = [target for target in base.targets if target.role == "q"]
    adapters = tuple(Adapter(target=target.name, method="lora", rank=2) for target in targets)
    cost = sum(2 * (target.in_features + target.out_features) for target in targets)
    return PlanDocument(
        plan=Plan(adapters=adapters, learning_rate=0.05, trainable_params=cost),
        model=spec,
        data=DataSpec(source=str(data_dir)),
        task=TaskSpec(name="text-classification", max_steps=max_steps, batch_size=8, max_length=16),
        base_params=base.base_params,
        head_params=base.head_params,
        schedule="linear",
        seed=0,
    )

"""Toys of more architectures than the common ones, built offline and seeded."""

from __future__ import annotations

import torch
import transformers

from autopeft.model import BaseModel

V, D, F, CONTEXT = 50, 16, 24, 40  # words, hidden size, feed-forward size, positions
TEXT = {"vocab_size": V, "hidden_size": D, "intermediate_size": F, "num_attention_heads": 4}
TEXT |= {"num_hidden_layers": 2, "max_position_embeddings": CONTEXT, "initializer_range": 0.2}
IDS = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
GROUPED = {**TEXT, **IDS, "num_key_value_heads": 2}
MOE = {**GROUPED, "head_dim": 4, "num_experts_per_tok": 2}
FEW = {"moe_intermediate_size": 12, "num_experts": 3, "decoder_sparse_step": 1}
T5 = {"vocab_size": V, "d_model": D, "d_ff": F, "d_kv": 8, "num_heads": 4, "num_layers": 2, **IDS}
BART = {"vocab_size": V, "d_model": D, "encoder_layers": 2, "decoder_layers": 1, "encoder_ffn_dim": F, **IDS}
BART |= {"decoder_ffn_dim": F, "encoder_attention_heads": 4, "decoder_attention_heads": 4}
MLA = {"q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 4}
CONFIGS = {
    "bert": lambda: transformers.BertConfig(**TEXT),
    "roberta": lambda: transformers.RobertaConfig(**TEXT | {"max_position_embeddings": CONTEXT + 2}),
    "distilbert": lambda: transformers.DistilBertConfig(
        vocab_size=V, dim=D, hidden_dim=F, n_heads=4, n_layers=2, max_position_embeddings=CONTEXT
    ),
    "albert": lambda: transformers.AlbertConfig(**TEXT, embedding_size=8),
    "deberta-v2": lambda: transformers.DebertaV2Config(**TEXT),
    "modernbert": lambda: transformers.ModernBertConfig(**TEXT, **IDS),
    "gpt2": lambda: transformers.GPT2Config(
        vocab_size=V, n_embd=D, n_layer=2, n_head=4, n_positions=CONTEXT, initializer_range=0.2, **IDS
    ),
    "llama": lambda: transformers.LlamaConfig(**GROUPED),
    "gpt_neox": lambda: transformers.GPTNeoXConfig(**TEXT, **IDS),
    "phi3": lambda: transformers.Phi3Config(**GROUPED),
    "mixtral": lambda: transformers.MixtralConfig(**MOE, num_local_experts=3),
    "qwen2_moe": lambda: transformers.Qwen2MoeConfig(**MOE, **FEW, shared_expert_intermediate_size=20),
    "qwen3_moe": lambda: transformers.Qwen3MoeConfig(**MOE, **FEW),
    "gpt_oss": lambda: transformers.GptOssConfig(**MOE, num_local_experts=3),
    "llama4_text": lambda: transformers.Llama4TextConfig(
        **MOE | {"num_experts_per_tok": 1}, num_local_experts=3, interleave_moe_layer_step=1
    ),
    "deepseek_v3": lambda: transformers.DeepseekV3Config(
        **MOE | {"num_key_value_heads": 4},
        **MLA,
        n_routed_experts=4,
        n_group=1,
        topk_group=1,
        first_k_dense_replace=1,
    ),
    "opt": lambda: transformers.OPTConfig(
        vocab_size=V,
        hidden_size=D,
        ffn_dim=F,
        num_hidden_layers=1,
        num_attention_heads=4,
        init_std=0.2,
        word_embed_proj_dim=D,
        max_position_embeddings=CONTEXT,
        dropout=0.0,
        **IDS,
    ),
    "mpt": lambda: transformers.MptConfig(
        vocab_size=V, d_model=D, n_heads=4, n_layers=2, max_seq_len=CONTEXT, **IDS
    ),
    "rwkv": lambda: transformers.RwkvConfig(
        vocab_size=V, hidden_size=D, attention_hidden_size=D, intermediate_size=F, num_hidden_layers=2, **IDS
    ),
    "t5": lambda: transformers.T5Config(**T5, decoder_start_token_id=0),
    "bart": lambda: transformers.BartConfig(
        **BART, decoder_start_token_id=2, max_position_embeddings=CONTEXT
    ),
    "vit": lambda: transformers.ViTConfig(
        hidden_size=D,
        num_hidden_layers=1,
        num_attention_heads=4,
        intermediate_size=F,
        image_size=8,
        patch_size=4,
    ),
}
AUTO = {
    "SEQ_CLS": "AutoModelForSequenceClassification",
    "CAUSAL_LM": "AutoModelForCausalLM",
    "SEQ_2_SEQ_LM": "AutoModelForSeq2SeqLM",
    "TOKEN_CLS": "AutoModelForTokenClassification",
    "image": "AutoModelForImageClassification",
}


def build(architecture, task_type):
    """A seeded toy as a base model, on torch's default device."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = CONFIGS[architecture]()
        if architecture == "llama4_text":  # no auto class knows the text model alone
            module = transformers.Llama4ForCausalLM(config)
        else:
            module = getattr(transformers, AUTO[task_type]).from_config(config)
        for name, parameter in module.named_parameters():
            if (
                "experts." in name and parameter.device.type != "meta"
            ):  # Llama 4 leaves them as they lie in memory
                torch.nn.init.normal_(parameter, std=0.2)
    head = [name for name in module.state_dict() if name.split(".")[0] in ("classifier", "score")]
    return BaseModel(module, None, name=f"toy {architecture}", untrained=frozenset(head))


def skeleton(architecture, task_type):
    """A toy as a base model without weights."""
    with torch.device("meta"):
        return build(architecture, task_type)


def make_inputs(task_type, *, n=3, length=7, seed=0):
    """Random words without padding, and labels of the task's kind."""
    generator = torch.Generator().manual_seed(seed)
    words = torch.randint(4, V, (n, length), generator=generator)
    labels = torch.arange(n) % 2 if task_type == "SEQ_CLS" else words.clone()
    return {"input_ids": words, "attention_mask": torch.ones_like(words), "labels": labels}


def train(model, inputs, *, steps=3):
    """Name -> largest absolute gradient of each trained tensor over a few steps of training."""
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(parameters.values(), lr=1e-2)
    largest = dict.fromkeys(parameters, 0.0)
    for _ in range(steps):
        model(**inputs).loss.backward()
        for name, p in parameters.items():
            largest[name] = max(largest[name], 0.0 if p.grad is None else float(p.grad.abs().max()))
        optimizer.step()
        optimizer.zero_grad()
    return largest


@torch.no_grad()
def logits(model, inputs):
    """Logits of the model in eval mode, at the positions of the text alone."""
    n_labels = inputs["labels"].shape[-1]
    out = model.eval()(**inputs).logits
    return out[:, -n_labels:] if out.ndim == 3 else out

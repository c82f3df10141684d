"""Configs of tiny models of many families, each with the transformers class that a task would load."""

from __future__ import annotations

import transformers

V, D, F, CONTEXT = 64, 16, 24, 40
IDS = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
SIZE = {"vocab_size": V, "hidden_size": D, "intermediate_size": F, "num_hidden_layers": 2}
SIZE |= {"num_attention_heads": 4, "max_position_embeddings": CONTEXT}
GROUPED = {**SIZE, **IDS, "num_key_value_heads": 2}
HEADED = {**GROUPED, "head_dim": 4}
IMAGE = {"hidden_size": D, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 8, "patch_size": 4}
TEXT, TOKENS, CAUSAL, SEQ2SEQ, VISION = (
    f"AutoModelFor{task}"
    for task in (
        "SequenceClassification",
        "TokenClassification",
        "CausalLM",
        "Seq2SeqLM",
        "ImageClassification",
    )
)
VISION_TOWER = {**IMAGE, "intermediate_size": F, "projection_dim": D}
CLIP_TEXT = {**SIZE, **IDS, "projection_dim": D}
BART = {"d_model": D, "encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": F, "decoder_ffn_dim": F}
BART |= {"encoder_attention_heads": 4, "decoder_attention_heads": 4, "vocab_size": V, **IDS}
BART |= {"max_position_embeddings": CONTEXT, "decoder_start_token_id": 2, "forced_eos_token_id": 3}
T5 = {"vocab_size": V, "d_model": D, "d_ff": F, "d_kv": 4, "num_heads": 4, "num_layers": 2, **IDS}
FEW_EXPERTS = {"num_experts": 3, "num_experts_per_tok": 2, "moe_intermediate_size": 12}

# family -> (transformers class of its config, arguments, auto class)
FAMILIES = {
    "bert": ("BertConfig", SIZE, TEXT),
    "roberta": ("RobertaConfig", SIZE, TEXT),
    "xlm-roberta": ("XLMRobertaConfig", SIZE, TOKENS),
    "distilbert": (
        "DistilBertConfig",
        {"vocab_size": V, "dim": D, "hidden_dim": F, "n_heads": 4, "n_layers": 2},
        TEXT,
    ),
    "albert": ("AlbertConfig", {**SIZE, "embedding_size": 8}, TEXT),
    "electra": ("ElectraConfig", {**SIZE, "embedding_size": 8}, TOKENS),
    "deberta": ("DebertaConfig", {**SIZE, "relative_attention": True, "pos_att_type": ["c2p", "p2c"]}, TEXT),
    "deberta-v2": (
        "DebertaV2Config",
        {**SIZE, "relative_attention": True, "pos_att_type": ["c2p", "p2c"], "share_att_key": False},
        TEXT,
    ),
    "mpnet": ("MPNetConfig", SIZE, TEXT),
    "modernbert": ("ModernBertConfig", {**SIZE, **IDS}, TEXT),
    "gpt2": ("GPT2Config", {"vocab_size": V, "n_embd": D, "n_layer": 2, "n_head": 4, **IDS}, CAUSAL),
    "gpt_neo": (
        "GPTNeoConfig",
        {"vocab_size": V, "hidden_size": D, "num_layers": 2, "num_heads": 4, **IDS}
        | {"attention_types": [[["global", "local"], 1]], "max_position_embeddings": CONTEXT},
        CAUSAL,
    ),
    "gpt_neox": ("GPTNeoXConfig", {**SIZE, **IDS}, CAUSAL),
    "gptj": (
        "GPTJConfig",
        {"vocab_size": V, "n_embd": D, "n_layer": 2, "n_head": 4, "rotary_dim": 4, **IDS},
        CAUSAL,
    ),
    "opt": (
        "OPTConfig",
        {"vocab_size": V, "hidden_size": D, "ffn_dim": F, "num_hidden_layers": 2, "num_attention_heads": 4}
        | {"word_embed_proj_dim": D, "max_position_embeddings": CONTEXT, **IDS},
        CAUSAL,
    ),
    "bloom": ("BloomConfig", {"vocab_size": V, "hidden_size": D, "n_layer": 2, "n_head": 4, **IDS}, CAUSAL),
    "falcon": ("FalconConfig", {**SIZE, **IDS, "multi_query": True}, CAUSAL),
    "llama": ("LlamaConfig", GROUPED, CAUSAL),
    "smollm3": ("SmolLM3Config", {**GROUPED, "pad_token_id": 0}, CAUSAL),
    "mistral": ("MistralConfig", GROUPED, CAUSAL),
    "qwen2": ("Qwen2Config", GROUPED, CAUSAL),
    "qwen3": ("Qwen3Config", HEADED, CAUSAL),
    "gemma": ("GemmaConfig", HEADED, CAUSAL),
    "gemma2": ("Gemma2Config", HEADED, CAUSAL),
    "gemma3_text": ("Gemma3TextConfig", HEADED, CAUSAL),
    "phi": ("PhiConfig", GROUPED, CAUSAL),
    "phi3": ("Phi3Config", GROUPED, CAUSAL),
    "olmo2": ("Olmo2Config", GROUPED, CAUSAL),
    "granite": ("GraniteConfig", GROUPED, CAUSAL),
    "mixtral": ("MixtralConfig", {**GROUPED, "num_local_experts": 3, "num_experts_per_tok": 2}, CAUSAL),
    "qwen3_moe": ("Qwen3MoeConfig", {**HEADED, **FEW_EXPERTS, "decoder_sparse_step": 1}, CAUSAL),
    "t5": ("T5Config", {**T5, "decoder_start_token_id": 0, "feed_forward_proj": "gated-gelu"}, SEQ2SEQ),
    "bart": ("BartConfig", BART, SEQ2SEQ),
    "marian": ("MarianConfig", {**BART, "decoder_vocab_size": V}, SEQ2SEQ),
    "vit": ("ViTConfig", {**IMAGE, "intermediate_size": F}, VISION),
    "beit": ("BeitConfig", {**IMAGE, "intermediate_size": F}, VISION),
    "dinov2": ("Dinov2Config", {**IMAGE, "mlp_ratio": 2}, VISION),
    "clip": ("CLIPConfig", {"text_config": CLIP_TEXT, "vision_config": VISION_TOWER}, VISION),
    "siglip": ("SiglipConfig", {"text_config": CLIP_TEXT, "vision_config": VISION_TOWER}, VISION),
    "swin": (
        "SwinConfig",
        {"image_size": 16, "patch_size": 4, "embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2]}
        | {"window_size": 2},
        VISION,
    ),
}


def build(family):
    """A tiny random model of a family with the head of its task."""
    config_class, arguments, auto_class = FAMILIES[family]
    config = getattr(transformers, config_class)(**arguments)
    config.num_labels = 3
    return getattr(transformers, auto_class).from_config(config)

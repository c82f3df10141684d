"""Configs of tiny models of many topologies: hybrids, mixtures of experts, models of images and text."""

from __future__ import annotations

import torch
import transformers

from toys.families import BART, FAMILIES, GROUPED, HEADED, IDS, SIZE, VISION_TOWER, D, F, V

CAUSAL, SEQ2SEQ, IMAGES, SPEECH, ANY = (
    f"AutoModel{kind}"
    for kind in ("ForCausalLM", "ForSeq2SeqLM", "ForImageTextToText", "ForSpeechSeq2Seq", "")
)
GROUPED = {**GROUPED, "intermediate_size": 32}
DENSE = {**HEADED, "head_dim": 8, "intermediate_size": 32}
MAMBA2 = {"mamba_n_heads": 4, "mamba_d_head": 8, "mamba_n_groups": 1, "mamba_d_state": 4, "mamba_expand": 2}
MAMBA2 |= {"mamba_chunk_size": 8}
DELTA = {"linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8}
DELTA |= {"linear_value_head_dim": 8}
LATENT = {**GROUPED, "num_key_value_heads": 4, "q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 4}
LATENT |= {"qk_nope_head_dim": 4, "v_head_dim": 4}
ROUTED = {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1}
ROUTED |= {"moe_intermediate_size": 16, "n_shared_experts": 1}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
SHARED = {**EXPERTS, "shared_expert_intermediate_size": 16}
LOCAL = {"num_local_experts": 4, "num_experts_per_tok": 2}
LINEAR_THEN_FULL = ["linear_attention", "full_attention"]
GATED = {**DENSE, **DELTA, "layer_types": LINEAR_THEN_FULL}
LLAMA4 = {**DENSE, **LOCAL, "intermediate_size_mlp": F, "interleave_moe_layer_step": 2}
QWEN_VISION = {"depth": 2, "hidden_size": D, "intermediate_size": F, "num_heads": 2, "patch_size": 4}
QWEN_VISION |= {"out_hidden_size": D, "spatial_merge_size": 2, "temporal_patch_size": 2}
ROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}
SEEN = {"image_token_id": 60, "video_token_id": 61, "vision_start_token_id": 62, "vision_end_token_id": 63}
GEMMA3N = {"hidden_size_per_layer_input": 4, "laurel_rank": 4, "vocab_size_per_layer_input": V}
GEMMA3N |= {"num_kv_shared_layers": 0, "altup_num_inputs": 2, "activation_sparsity_pattern": [0.0, 0.0]}
GEMMA4 = {**DENSE, "layer_types": ["sliding_attention", "full_attention"], "vocab_size_per_layer_input": V}
GEMMA4 |= {"num_kv_shared_layers": 0, "global_head_dim": 8}
WHISPER = {"vocab_size": V, "d_model": D, "encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": F}
WHISPER |= {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "decoder_ffn_dim": F, **IDS}
WHISPER |= {"decoder_start_token_id": 2, "num_mel_bins": 8, "max_source_positions": 20}

# model type -> (transformers class of its config, arguments, auto class)
TOPOLOGIES = {
    "qwen3_next": ("Qwen3NextConfig", {**GATED, **SHARED}, CAUSAL),
    "qwen3_5_text": ("Qwen3_5TextConfig", GATED, CAUSAL),
    "qwen3_5": (
        "Qwen3_5Config",
        {
            "text_config": {**GATED, "rope_parameters": ROPE},
            "vision_config": {**QWEN_VISION, "num_position_embeddings": 16},
            **SEEN,
        },
        IMAGES,
    ),
    "qwen3_5_moe_text": ("Qwen3_5MoeTextConfig", {**GATED, **SHARED}, CAUSAL),
    "falcon_h1": ("FalconH1Config", {**GROUPED, **MAMBA2, "mamba_d_ssm": 32}, CAUSAL),
    "granitemoehybrid": (
        "GraniteMoeHybridConfig",
        {
            **GROUPED,
            **MAMBA2,
            "layer_types": ["mamba", "attention"],
            "num_local_experts": 0,
            "shared_intermediate_size": F,
        },
        CAUSAL,
    ),
    "granitemoehybrid (experts)": (
        "GraniteMoeHybridConfig",
        {
            **GROUPED,
            **MAMBA2,
            **LOCAL,
            "layer_types": ["mamba", "attention"],
            "shared_intermediate_size": F,
        },
        CAUSAL,
    ),
    "nemotron_h": (
        "NemotronHConfig",
        {
            **HEADED,
            "layers_block_type": ["mamba", "mlp", "attention", "mlp"],
            "mamba_num_heads": 4,
            "mamba_head_dim": 8,
            "ssm_state_size": 4,
            "n_groups": 1,
            "chunk_size": 8,
        },
        CAUSAL,
    ),
    "lfm2": (
        "Lfm2Config",
        {**GROUPED, "layer_types": ["conv", "full_attention"], "block_auto_adjust_ff_dim": False},
        CAUSAL,
    ),
    "lfm2_moe": (
        "Lfm2MoeConfig",
        {
            **GROUPED,
            **EXPERTS,
            "layer_types": ["conv", "full_attention"],
            "num_dense_layers": 1,
        },
        CAUSAL,
    ),
    "jamba": (
        "JambaConfig",
        {
            **GROUPED,
            "num_hidden_layers": 4,
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "expert_layer_period": 2,
            "expert_layer_offset": 1,
            "num_experts": 4,
            "mamba_d_state": 4,
            "use_mamba_kernels": False,
        },
        CAUSAL,
    ),
    "zamba2": (
        "Zamba2Config",
        {
            **GROUPED,
            "num_key_value_heads": 4,
            "num_hidden_layers": 3,
            "layers_block_type": ["mamba", "hybrid", "hybrid"],
            "num_mem_blocks": 1,
            "mamba_d_state": 4,
            "n_mamba_heads": 4,
            "mamba_ngroups": 1,
            "chunk_size": 8,
            "use_mem_rope": True,
            "adapter_rank": 2,
            "use_shared_attention_adapter": True,
        },
        CAUSAL,
    ),
    "bamba": ("BambaConfig", {**GROUPED, **MAMBA2, "attn_layer_indices": [1]}, CAUSAL),
    "mamba": (
        "MambaConfig",
        {"vocab_size": V, "hidden_size": D, "num_hidden_layers": 2, "state_size": 4, **IDS},
        CAUSAL,
    ),
    "mamba2": (
        "Mamba2Config",
        {
            "vocab_size": V,
            "hidden_size": D,
            "num_hidden_layers": 2,
            "state_size": 4,
            **IDS,
            "num_heads": 4,
            "head_dim": 8,
            "n_groups": 2,
            "chunk_size": 8,
        },
        CAUSAL,
    ),
    "falcon_mamba": (
        "FalconMambaConfig",
        {"vocab_size": V, "hidden_size": D, "num_hidden_layers": 2, "state_size": 4, **IDS},
        CAUSAL,
    ),
    "xlstm": (
        "xLSTMConfig",
        {**SIZE, "num_heads": 2, "chunk_size": 8, "qk_dim_factor": 1.0, "pad_token_id": 0},
        CAUSAL,
    ),
    "rwkv": ("RwkvConfig", {"vocab_size": V, "hidden_size": D, "num_hidden_layers": 2}, CAUSAL),
    "recurrent_gemma": (
        "RecurrentGemmaConfig",
        {**GROUPED, "lru_width": D, "block_types": ["recurrent", "attention"], "attention_window_size": 8},
        CAUSAL,
    ),
    "olmo_hybrid": (
        "OlmoHybridConfig",
        {**GROUPED, **DELTA, "num_key_value_heads": 4, "layer_types": LINEAR_THEN_FULL},
        CAUSAL,
    ),
    "minimax": (
        "MiniMaxConfig",
        {**HEADED, **LOCAL, "layer_types": LINEAR_THEN_FULL, "block_size": 8},
        CAUSAL,
    ),
    "kimi_linear": (
        "KimiLinearConfig",
        {
            **LATENT,
            **EXPERTS,
            "q_lora_rank": None,
            "num_shared_experts": 1,
            "layer_types": LINEAR_THEN_FULL,
            "mlp_layer_types": ["dense", "sparse"],
            "linear_num_heads": 2,
            "linear_head_dim": 8,
        },
        CAUSAL,
    ),
    "gpt_oss": ("GptOssConfig", {**DENSE, **LOCAL}, CAUSAL),
    "mixtral": ("MixtralConfig", {**GROUPED, **LOCAL}, CAUSAL),
    "qwen2_moe": ("Qwen2MoeConfig", {**GROUPED, **SHARED}, CAUSAL),
    "qwen3_moe": ("Qwen3MoeConfig", {**DENSE, **EXPERTS, "decoder_sparse_step": 1}, CAUSAL),
    "deepseek_v2": ("DeepseekV2Config", {**LATENT, **ROUTED, "first_k_dense_replace": 1}, CAUSAL),
    "deepseek_v3": ("DeepseekV3Config", {**LATENT, **ROUTED, "first_k_dense_replace": 1}, CAUSAL),
    "glm4_moe": ("Glm4MoeConfig", {**DENSE, **ROUTED, "first_k_dense_replace": 1}, CAUSAL),
    "olmoe": ("OlmoeConfig", {**GROUPED, **EXPERTS}, CAUSAL),
    "phimoe": ("PhimoeConfig", {**GROUPED, **LOCAL}, CAUSAL),
    "jetmoe": (
        "JetMoeConfig",
        {
            "vocab_size": V,
            "hidden_size": D,
            "num_hidden_layers": 2,
            "num_key_value_heads": 2,
            "kv_channels": 4,
            "intermediate_size": F,
            "num_local_experts": 4,
            **IDS,
        },
        CAUSAL,
    ),
    "llama4_text": ("Llama4TextConfig", LLAMA4, CAUSAL),
    "llama4": (
        "Llama4Config",
        {
            "text_config": LLAMA4,
            "vision_config": {**VISION_TOWER, "vision_output_dim": D, "projector_output_dim": D},
        },
        IMAGES,
    ),
    "switch_transformers": (
        "SwitchTransformersConfig",
        {
            "vocab_size": V,
            "d_model": D,
            "d_ff": F,
            "d_kv": 4,
            "num_heads": 4,
            "num_layers": 2,
            "num_decoder_layers": 2,
            "num_sparse_encoder_layers": 1,
            "num_sparse_decoder_layers": 1,
            "num_experts": 4,
            **IDS,
            "decoder_start_token_id": 0,
        },
        SEQ2SEQ,
    ),
    "nllb-moe": (
        "NllbMoeConfig",
        {**BART, "num_experts": 4, "encoder_sparse_step": 2, "decoder_sparse_step": 2},
        SEQ2SEQ,
    ),
    "gemma3": (
        "Gemma3Config",
        {"text_config": HEADED, "vision_config": VISION_TOWER, "mm_tokens_per_image": 4},
        IMAGES,
    ),
    "gemma3n_text": ("Gemma3nTextConfig", {**HEADED, "head_dim": 8, **GEMMA3N}, CAUSAL),
    "gemma4": (
        "Gemma4Config",
        {
            "text_config": {**GEMMA4, "hidden_size_per_layer_input": 0},
            "vision_config": {
                **VISION_TOWER,
                "head_dim": 4,
                "global_head_dim": 4,
                "use_clipped_linears": True,
            },
            "audio_config": None,
        },
        IMAGES,
    ),
    "gemma4_text (experts)": (
        "Gemma4TextConfig",
        {
            **GEMMA4,
            **EXPERTS,
            "enable_moe_block": True,
            "top_k_experts": 2,
            "hidden_size_per_layer_input": 4,
        },
        CAUSAL,
    ),
    "qwen2_vl": (
        "Qwen2VLConfig",
        {
            "text_config": {**GROUPED, "rope_parameters": ROPE | {"mrope_section": [1, 1]}},
            "vision_config": {"depth": 2, "embed_dim": D, "num_heads": 2, "patch_size": 4, "hidden_size": D},
            **SEEN,
        },
        IMAGES,
    ),
    "qwen2_5_vl": (
        "Qwen2_5_VLConfig",
        {
            "text_config": {**GROUPED, "rope_parameters": ROPE | {"mrope_section": [1, 1]}},
            "vision_config": {**QWEN_VISION, "fullatt_block_indexes": [1]},
            **SEEN,
        },
        IMAGES,
    ),
    "qwen3_vl": (
        "Qwen3VLConfig",
        {
            "text_config": {**DENSE, "rope_parameters": ROPE},
            "vision_config": {
                **QWEN_VISION,
                "num_position_embeddings": 16,
                "deepstack_visual_indexes": [0],
            },
            **SEEN,
        },
        IMAGES,
    ),
    "llava": (
        "LlavaConfig",
        {
            "text_config": transformers.LlamaConfig(**GROUPED),
            "vision_config": transformers.CLIPVisionConfig(**VISION_TOWER),
            "image_token_index": 60,
        },
        IMAGES,
    ),
    "qwen2_audio": (
        "Qwen2AudioConfig",
        {
            "text_config": transformers.Qwen2Config(**GROUPED),
            "audio_config": {
                "d_model": D,
                "encoder_layers": 2,
                "encoder_attention_heads": 2,
                "encoder_ffn_dim": F,
                "num_mel_bins": 8,
                "max_source_positions": 20,
            },
        },
        "AutoModelForMultimodalLM",
    ),
    "whisper": ("WhisperConfig", WHISPER, SPEECH),
    "convnext": (
        "ConvNextConfig",
        {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2, "image_size": 32},
        "AutoModelForImageClassification",
    ),
    "clip (both)": (
        "CLIPConfig",
        {"text_config": {**SIZE, **IDS, "projection_dim": D}, "vision_config": VISION_TOWER},
        ANY,
    ),
}


def build(name, *, device="meta"):
    """Build a tiny model of a name in `TOPOLOGIES` or `FAMILIES`: random, or on the meta device."""
    config_class, arguments, auto_class = {**FAMILIES, **TOPOLOGIES}[name]
    with torch.random.fork_rng(devices=[]), torch.device(device):
        torch.manual_seed(0)
        config = getattr(transformers, config_class)(**arguments)
        return getattr(transformers, auto_class).from_config(config)

"""Sites of the model as a whole: virtual tokens before the inputs, or before the keys and values.

They are listed only where peft 0.21.2 with transformers 5.24 was seen to run them right:

- Prompts with a sequence classifier whose head is called `classifier` and that has no cache (BERT
  and its like). The others look for the last token in `input_ids`, which is not there beside
  `inputs_embeds`: GPT-2 and Llama take the last position, padding or not; T5 and BART refuse.
- Prompts with causal and with sequence-to-sequence language models.
- Prefixes with causal language models alone. `peft` finds no `past_key_values` in the signature of
  a classifier (transformers calls it `cache` now); with an encoder and a decoder it gives half
  of the prefix to a cache that it drops, or mixes it with the cross attention's.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, cast

import transformers
from torch import nn
from transformers import PreTrainedModel

from autopeft.records import Adapter, Site

_CAUSAL = ("LMHeadModel", "ForCausalLM")
_CACHES = ("cache", "past_key_values")
_NEED_IDS = ("longformer", "reformer")  # classifiers that fail on embeddings alone, or on their number
# From here on transformers no longer renames the argument by which peft hands a prefix over.
_RENAMING_ENDS = (5, 40)


def model_sites(module: nn.Module, sites: Sequence[Site]) -> tuple[Site, ...]:
    """The sites `inputs` and `cache` of a task model, where it has them; meta tensors are fine.

    `sites` are those of other kinds: the outputs of keys and values tell how large a prefix is.
    """
    if not isinstance(module, PreTrainedModel) or not _takes_prompts(module):
        return ()
    width = cast(nn.Embedding, module.get_input_embeddings()).embedding_dim
    prompt, n_numbers = _site("inputs", "prompt", width, width), _numbers_per_token(module, sites)
    return (prompt, _site("cache", "prefix", width, n_numbers)) if n_numbers else (prompt,)


def n_virtual_tokens(adapters: Sequence[Adapter]) -> int:
    """Positions that virtual tokens take from the text: the ranks of adapters at `inputs` and `cache`."""
    return sum(adapter.rank for adapter in adapters if adapter.site in ("inputs", "cache"))


def gives_cache(adapters: Sequence[Adapter]) -> bool:
    """Whether adapters are given to the layers as a cache; such layers cannot be checkpointed."""
    return any(adapter.site == "cache" for adapter in adapters)


def n_positions(module: nn.Module) -> int | None:
    """How many tokens a model has positions for; None where there is no limit (T5, ALiBi)."""
    config = cast(Any, module.config).get_text_config()
    names = ("max_position_embeddings", "max_encoder_position_embeddings")  # the second is LED's
    limits = (getattr(config, name, None) for name in names)
    limit = next((limit for limit in limits if isinstance(limit, int)), None)
    if limit is None or limit <= 0:  # XLNet says -1
        return None
    for name, child in module.named_modules():
        if name.endswith("position_embeddings") and getattr(child, "padding_idx", None) is not None:
            return limit - cast(int, child.padding_idx) - 1  # RoBERTa counts from behind the padding's place
    return limit


def _site(name: str, role: str, n_in: int, n_out: int) -> Site:
    return Site(
        name=name, layer=None, role=role, kind="model", in_features=n_in, out_features=n_out, has_bias=False
    )


def _takes_prompts(module: PreTrainedModel) -> bool:
    kind = type(module).__name__
    accepted = inspect.signature(module.forward).parameters
    is_encoder = not any(name in accepted for name in _CACHES) and module.config.model_type not in _NEED_IDS
    has_classifier = kind.endswith("ForSequenceClassification") and hasattr(module, "classifier")
    is_classifier = has_classifier and is_encoder
    is_seq2seq = kind.endswith("ForConditionalGeneration") and bool(module.config.is_encoder_decoder)
    if not (is_classifier or is_seq2seq or kind.endswith(_CAUSAL)):
        return False
    reads_text = module.main_input_name == "input_ids" and "bbox" not in accepted and not _reads_ids(module)
    return reads_text and "inputs_embeds" in accepted and _peft_finds_embeddings(module)


def _reads_ids(module: PreTrainedModel) -> bool:
    """Whether each layer looks the words up again, which embeddings alone do not tell (Gemma 3n and 4)."""
    return bool(getattr(module.config.get_text_config(), "hidden_size_per_layer_input", None))


def _peft_finds_embeddings(module: PreTrainedModel) -> bool:
    """`peft` takes the first parameter with as many rows as there are words; is that the embedding?"""
    try:
        embeddings = module.get_input_embeddings()
    except NotImplementedError:  # CANINE hashes characters
        return False
    if not isinstance(embeddings, nn.Embedding):
        return False
    inner = next((child for child in module.children() if isinstance(child, PreTrainedModel)), module)
    n_words = module.config.get_text_config().vocab_size
    first = next((p for p in inner.parameters() if p.ndim and p.shape[0] == n_words), None)
    return first is embeddings.weight


def _numbers_per_token(module: PreTrainedModel, sites: Sequence[Site]) -> int:
    """Keys and values of all layers, as `peft` counts them; 0 where the model's maps say otherwise.

    It is 0 where some layers have no attention (Jamba), compressed keys (DeepSeek) or another width
    (Gemma 4), or convolutions beside it, whose states the cache holds too (Falcon-H1): the prefix that `peft`
    makes does not fit their cache.
    """
    config: Any = module.config.get_text_config()
    n_heads, n_layers = (getattr(config, name, 0) for name in ("num_attention_heads", "num_hidden_layers"))
    written = config.to_dict()  # the config answers for `per_layer_config` also where nothing is written
    is_odd = any(written.get(name) for name in ("num_kv_shared_layers", "per_layer_config"))
    is_odd = is_odd or any(isinstance(child, nn.Conv1d) for child in module.modules())
    is_known = any(name in written for name in ("num_attention_heads", "n_head", "num_heads"))  # to peft
    is_causal = type(module).__name__.endswith(_CAUSAL) and _takes_cache(module)
    if not is_causal or not is_known or is_odd or not n_heads:
        return 0
    head_width = getattr(config, "head_dim", None) or config.hidden_size // n_heads
    n_kv_heads = getattr(config, "num_key_value_heads", None)
    kv_width = n_kv_heads * head_width if n_kv_heads else config.hidden_size
    widths = {role: [site.out_features for site in sites if site.role == role] for role in ("k", "v", "qkv")}
    fits_split = widths["k"] == widths["v"] == [kv_width] * n_layers
    fits_fused = widths["qkv"] == [n_heads * head_width + 2 * kv_width] * n_layers
    return int(2 * n_layers * kv_width) if fits_split or fits_fused else 0


def _takes_cache(module: PreTrainedModel) -> bool:
    """Whether a prefix arrives: `peft` hands it over as `past_key_values`."""
    accepted = inspect.signature(module.forward).parameters
    version = tuple(int(part) for part in transformers.__version__.split(".")[:2])
    return "past_key_values" in accepted or ("cache" in accepted and version < _RENAMING_ENDS)

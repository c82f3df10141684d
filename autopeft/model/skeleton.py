"""A base model without weights, built on torch's meta device from its `config.json` alone, for counting."""

from __future__ import annotations

from typing import Any

import torch
import transformers

from autopeft.model.base import BaseModel
from autopeft.model.checks import require_sites
from autopeft.model.classes import counting_class, require_class
from autopeft.model.locating import (
    LOAD_ERRORS,
    load_error,
    name_first_token,
    pretrained_arguments,
    refuse_kernels,
    require_reachable,
    resolve,
)
from autopeft.model.quantising import conv1d_to_linear
from autopeft.model.stored import stored_weights
from autopeft.records import ModelSpec


def load_skeleton(
    spec: ModelSpec,
    *,
    auto_class: str | None,
    here_only: bool = False,
    n_layers: int | None = None,
    n_labels: int | None = None,
) -> BaseModel:
    """A base model with all modules and no weights; raises ModelError without a config that can be read.

    `auto_class` names the transformers class; None takes what a search of texts would load, else the
    architecture that the config names. With `here_only` only a directory or the hub's cache is read.
    `n_layers` builds the first layers alone, `n_labels` a head of so many outputs.
    """
    source, name = resolve(spec)
    if not here_only:
        require_reachable(source, spec)
    try:
        arguments = pretrained_arguments(source, spec)
        if here_only:
            arguments["local_files_only"] = True
        config = transformers.AutoConfig.from_pretrained(**arguments)
        refuse_kernels(config, source)
        if n_layers is not None:
            _keep_layers(config.get_text_config(), n_layers)
        if n_labels is not None:
            config.num_labels = n_labels
        name_first_token(config)
        wanted = counting_class(config, auto_class)
        require_class(config, wanted, name=name)
        builder = getattr(transformers, wanted)
        with torch.device("meta"):
            module = getattr(builder, "from_config", builder)(config)
    except LOAD_ERRORS as error:
        raise load_error(source, error) from error
    stored = stored_weights(config)
    if spec.quantize != "none" or (stored is not None and stored.quantize != "none"):
        conv1d_to_linear(module)
    base = BaseModel(module, None, name=name, untrained=frozenset())
    require_sites(base)
    return base


def _keep_layers(config: Any, n_layers: int) -> None:
    """Let a config describe its first layers alone."""
    config.num_hidden_layers = n_layers
    if isinstance(vars(config).get("layer_types"), list):  # some derive it from the number of layers
        config.layer_types = config.layer_types[:n_layers]

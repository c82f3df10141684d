"""Asks an OpenAI-compatible server for log-probabilities of prompts, with and without an adapter."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from autopeft.errors import AutopeftError, SpecError, reason_of
from autopeft.finished.same_outputs import TEXTS

_N_TOP = 5  # most likely next tokens; servers of OpenAI's protocol give up to five
_SECONDS = 60.0  # for an answer, as the first request may load the adapter
_NOISE = 1e-4  # by which two answers of one model may differ; heuristic
TOLERANCE = 0.1  # log-probabilities in bfloat16 are a few hundredths from those in float32; heuristic


@dataclass(frozen=True, kw_only=True)
class ServedAnswers:
    """Log-probabilities of the likeliest next tokens on a server, in nats.

    `change` is how far the adapter moves them there, at most. `difference` is how far they are from those of
    the adapter on this machine; None if the base model's weights are not at hand.
    """

    url: str
    base: str
    adapter: str
    change: float
    difference: float | None = None

    @property
    def has_effect(self) -> bool:
        """Whether the server applies the adapter at all."""
        return self.change > _NOISE

    @property
    def is_same(self) -> bool:
        """Whether the server applies the adapter, and as it is applied here if that is known."""
        return self.has_effect and (self.difference is None or self.difference <= TOLERANCE)


def ask_server(url: str, folder: Path) -> tuple[ServedAnswers, list[list[float]]]:
    """Compare a server's base model with the adapter in `folder`; also returns the adapter's values.

    The adapter is the only model that is served next to the base, or the one with the folder's name or path.

    Raises:
        SpecError: The server lists no such adapter.
        AutopeftError: The server cannot be reached, or gives no log-probabilities.
    """
    url = url.rstrip("/").removesuffix("/v1")
    models = {each["id"]: each for each in _request(f"{url}/v1/models")["data"]}
    base = next(
        (str(each["parent"]) for each in models.values() if each.get("parent")), next(iter(models), "")
    )
    known_as = {folder.name, str(folder), str(folder.resolve())}
    others = [name for name in models if name != base]
    own = [name for name in others if known_as & {name, models[name].get("root")}] or others
    if len(own) != 1:
        raise SpecError(
            f"{url} serves {', '.join(models) or 'nothing'}; serve the adapter next to its base model, and "
            f"name it {folder.name} if there are several."
        )
    plain, adapted = ([_top(url, name, prompt) for prompt in TEXTS] for name in (base, own[0]))
    change = max(map(_distance, plain, adapted))
    return ServedAnswers(url=url, base=base, adapter=own[0], change=change), adapted


@torch.no_grad()
def difference_here(model: nn.Module, tokenizer: Any, served: Sequence[Sequence[float]]) -> float:
    """Return the largest difference of served log-probabilities from those of a model with its adapter."""
    encoded = (tokenizer(prompt, return_tensors="pt") for prompt in TEXTS)
    logits = (model(**features).logits[0, -1].float() for features in encoded)
    return max(map(_distance, (row.log_softmax(-1).topk(_N_TOP).values.tolist() for row in logits), served))


def _top(url: str, name: str, prompt: str) -> list[float]:
    """Return the log-probabilities of the likeliest next tokens, in descending order."""
    body = {"model": name, "prompt": prompt, "max_tokens": 1, "temperature": 0, "logprobs": _N_TOP}
    logprobs = _request(f"{url}/v1/completions", body)["choices"][0].get("logprobs") or {}
    if not logprobs.get("top_logprobs"):
        raise AutopeftError(f"{url} gives no log-probabilities with completions; ask another server.")
    return sorted(logprobs["top_logprobs"][0].values(), reverse=True)


def _distance(first: Sequence[float], second: Sequence[float]) -> float:
    return max(abs(a - b) for a, b in zip(first, second, strict=False))


def _request(url: str, body: dict[str, Any] | None = None) -> Any:
    """Send a request, with a body as POST, and return the JSON of its answer."""
    content = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, content, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=_SECONDS) as answer:
            return json.load(answer)
    except (OSError, ValueError) as error:
        raise AutopeftError(f"{url} does not answer as OpenAI's API ({reason_of(error)}).") from error

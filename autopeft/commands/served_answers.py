"""Asks an OpenAI-compatible server for log-probabilities of prompts, with and without an adapter."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from autopeft.errors import AutopeftError, SpecError, first_line_of

PROMPTS = (
    "The capital of France is",
    "Once upon a time",
    "def add(a, b):",
    "Question: What is 2 + 3?\nAnswer:",
)
_N_TOP = 5  # most likely next tokens; servers of OpenAI's protocol give up to five
_SECONDS = 60.0  # for an answer, as the first request may load the adapter
# Log-probabilities in bfloat16 differ by a few hundredths from those in float32; heuristic.
TOLERANCE = 0.1


@dataclass(frozen=True, kw_only=True)
class ServedAnswers:
    """How an adapter moves the log-probabilities of the likeliest next tokens on a server, in nats.

    `change` is the largest difference from the base model there. `difference` is that from the adapter on
    this machine; None if the base model's weights are not at hand.
    """

    url: str
    base: str
    adapter: str
    n_prompts: int
    change: float
    difference: float | None = None
    tolerance: float = TOLERANCE

    @property
    def is_applied(self) -> bool:
        """Whether the server applies the adapter, and as it is applied here where that is known."""
        return self.change > 0 and (self.difference is None or self.difference <= self.tolerance)


def ask_server(url: str, folder: Path) -> tuple[ServedAnswers, list[list[float]]]:
    """Compare a server's base model with the adapter in `folder`; also returns the adapter's values.

    The adapter is the only listed model besides the base, or the one with the name or path of the folder.

    Raises:
        SpecError: The server lists no such adapter.
        AutopeftError: The server cannot be reached, or gives no log-probabilities.
    """
    url = url.rstrip("/").removesuffix("/v1")
    listed = _request(f"{url}/v1/models")["data"]
    names = [str(each["id"]) for each in listed]
    parents = {each.get("parent") for each in listed} & set(names)
    base = next(iter(parents), names[0])
    others = [each for each in listed if each["id"] != base]
    own = [
        each for each in others if folder.name == each["id"] or str(each.get("root")) == str(folder.resolve())
    ]
    chosen = own or others
    if len(chosen) != 1:
        raise SpecError(
            f"{url} serves {', '.join(names)}; of several adapters, the one to check needs the name of its "
            f"folder, {folder.name}."
        )
    adapter = str(chosen[0]["id"])
    plain, adapted = ([_top(url, name, prompt) for prompt in PROMPTS] for name in (base, adapter))
    change = max(_distance(a, b) for a, b in zip(plain, adapted, strict=True))
    answers = ServedAnswers(url=url, base=base, adapter=adapter, n_prompts=len(PROMPTS), change=change)
    return answers, adapted


@torch.no_grad()
def difference_here(model: nn.Module, tokenizer: Any, served: Sequence[Sequence[float]]) -> float:
    """Return the largest difference of served log-probabilities from those of a model with its adapter."""
    worst = 0.0
    for prompt, values in zip(PROMPTS, served, strict=True):
        logits = model(**tokenizer(prompt, return_tensors="pt")).logits[0, -1].float()
        worst = max(worst, _distance(logits.log_softmax(-1).topk(len(values)).values.tolist(), values))
    return worst


def _top(url: str, name: str, prompt: str) -> list[float]:
    """Return the log-probabilities of the likeliest next tokens, in descending order.

    vLLM and SGLang list them as `top_logprobs`, llama.cpp as chats do.
    """
    body = {"model": name, "prompt": prompt, "max_tokens": 1, "temperature": 0, "logprobs": _N_TOP}
    logprobs = _request(f"{url}/v1/completions", body)["choices"][0].get("logprobs") or {}
    if logprobs.get("content"):
        values = [each["logprob"] for each in logprobs["content"][0]["top_logprobs"]]
    elif logprobs.get("top_logprobs"):
        values = list(logprobs["top_logprobs"][0].values())
    else:
        raise AutopeftError(
            f"{url} gives no log-probabilities for completions; ask vLLM, SGLang or llama.cpp."
        )
    return sorted(values, reverse=True)[:_N_TOP]


def _distance(first: Sequence[float], second: Sequence[float]) -> float:
    return max(abs(a - b) for a, b in zip(first, second, strict=False))


def _request(url: str, body: dict[str, Any] | None = None) -> Any:
    """Send a request, with a body as POST, and return the JSON of its answer."""
    request = urllib.request.Request(
        url,
        data=None if body is None else json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=_SECONDS) as answer:
            return json.load(answer)
    except (OSError, ValueError) as error:
        raise AutopeftError(
            f"{url} does not answer as OpenAI's API does ({first_line_of(error)})."
        ) from error

"""Compares the outputs of an adapter or export with those of its plan, and with those of a server."""

from __future__ import annotations

import json
import math
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from autopeft import adapters, exports, model
from autopeft.adapters import ConfigFile
from autopeft.errors import AutopeftError, SpecError, reason_of
from autopeft.finished.loading import apply
from autopeft.finished.training_notes import finished_weights, require_same_base
from autopeft.model import BaseModel
from autopeft.model.checks import example_features
from autopeft.plugins import discover
from autopeft.setup.resources import FREE_MEMORY, memory_needed
from autopeft.store import RunDir, is_run, read_object, read_plan
from autopeft.types import ModelSpec, PlanDocument

TEXTS = ("The capital of France is", "Once upon a time", "def add(a, b):", "Question: 2 + 3?\nAnswer:")
# Allowed difference as a share of the largest output. Rounding in float32 stays below the first; weights that
# were rounded to 16 bits move outputs by a few tenths of a percent. Both heuristic.
_TOLERANCE, _TOLERANCE_16_BITS = 1e-5, 2e-2
_N_TOP = 5  # most likely next tokens; servers of OpenAI's protocol give up to five
_SECONDS = 60.0  # for an answer, as the first request may load the adapter
_NOISE = 1e-4  # by which two answers of one model may differ; heuristic
_SERVED_TOLERANCE = 0.1  # bfloat16 moves log-probabilities by a few hundredths; heuristic


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """How logits differ from those of the finished plan in `reference`, in float32.

    `largest_difference` is divided by the largest logit if that is above 1; None if shapes differ.
    """

    reference: str
    tolerance: float
    largest_difference: float | None

    @property
    def is_same(self) -> bool:
        """Whether the outputs are those of the finished plan."""
        return self.largest_difference is not None and self.largest_difference <= self.tolerance


class Reference(NamedTuple):
    """A finished plan, and the folder of its weights."""

    document: PlanDocument
    weights: Path


def find_reference(path: Path, run: Path | None) -> Reference | None:
    """Find the finished plan of `run`, which `train` may have written; else of the run with `path` in it."""
    folder = run or next((parent for parent in path.absolute().parents if is_run(parent)), path)
    if is_run(folder):
        weights = finished_weights(RunDir.open(folder))
        judged = weights.with_name("judged")
        return Reference(read_plan(folder), judged if path.name == judged.name else weights)
    if (folder / "plan.yaml").is_file():
        return Reference(read_plan(folder), folder)
    if run is not None:
        raise SpecError(f"{run} is not a run, nor a folder that `train` wrote; pass one of them with --run.")
    return None


def compare_outputs(
    path: Path, files: Sequence[ConfigFile], reference: Reference, *, model_id: str | None
) -> Outputs:
    """Compare an adapter with `files`, or a whole model without, with a finished plan on a few texts.

    Models of images get a gray image. `model_id` replaces the base model.

    Raises:
        ModelError: The base model cannot be loaded, or is not the one that the plan was trained on.
    """
    dtype = "float32" if files else str(model.config_of(ModelSpec(id=str(path))).dtype)
    document = reference.document
    named = {} if model_id is None else {"id": model_id, "revision": None}
    spec = document.model.model_copy(update=named)
    auto_class = discover("autopeft.tasks")[document.task.name].auto_class
    id2label = read_object(reference.weights / "config.json").get("id2label") or {}
    labels = tuple(str(id2label[key]) for key in sorted(id2label, key=int))
    with memory_needed("computing the outputs of a model in float32", FREE_MEMORY):
        base = model.load(spec, auto_class=auto_class, label_names=labels)
        require_same_base(reference.weights, base.module)
        features = [example_features(base, auto_class, text) for text in TEXTS]
        expected = _logits(apply(document.plan, base.module, weights=reference.weights), features)
        del base
        model.release_memory(next(iter(features[0].values())).device)  # one model at a time
        own = _own_spec(path, files, spec, is_named=model_id is not None)
        kind = adapters.auto_class_of([file.config for file in files]) or auto_class
        base = model.load(own, auto_class=kind, label_names=labels, needs_tokenizer=False)
        difference = _largest_difference(expected, _logits(_adapted(path, files, base, document), features))
    return Outputs(
        reference=str(reference.weights),
        tolerance=_TOLERANCE_16_BITS if dtype.endswith("float16") else _TOLERANCE,
        largest_difference=difference if math.isfinite(difference) else None,
    )


@torch.no_grad()
def _logits(module: nn.Module, examples: Sequence[Mapping[str, torch.Tensor]]) -> list[torch.Tensor]:
    """Compute the logits of each example on the CPU."""
    return [module.eval()(**features).logits.float().cpu() for features in examples]


def _own_spec(path: Path, files: Sequence[ConfigFile], used: ModelSpec, *, is_named: bool) -> ModelSpec:
    """Return the whole model; else the base model that the user or the adapter names, or that is in use."""
    if not files:
        return ModelSpec(id=str(path))
    config = next((file.config for file in files if file.config.base_model_name_or_path), None)
    if config is None or is_named:
        return used
    source, named = model.resolve(used)[0], config.base_model_name_or_path
    if named == source or (source.endswith(".gguf") and named == str(Path(source).parent)):  # peft's guess
        return used.model_copy(update={"revision": config.revision or used.revision})
    return ModelSpec(id=named, revision=config.revision, quantize=used.quantize)


def _adapted(path: Path, files: Sequence[ConfigFile], base: BaseModel, document: PlanDocument) -> nn.Module:
    """Load the adapter on its base model; a whole model stays as it is."""
    if not files:
        return base.module
    if len(files) > 1:  # quantized weights cannot be changed exactly
        model.dequantize(base.module)
    if sum(adapters.is_unmergeable(file.config) for file in files) > 1:
        adapted: nn.Module = apply(document.plan, base.module, weights=path)
        return adapted
    return exports.load_in_peft(base.module, files)


def _largest_difference(expected: Sequence[torch.Tensor], found: Sequence[torch.Tensor]) -> float:
    """Find the largest difference, divided by the largest number or 1; inf if shapes differ."""
    worst, largest = 0.0, 1.0
    for first, second in zip(expected, found, strict=True):
        finite = first.isfinite()
        if first.shape != second.shape or not torch.equal(finite, second.isfinite()):
            return math.inf
        worst = max(worst, float((first - second)[finite].abs().max()))
        largest = max(largest, float(first[finite].abs().max()))
    return worst / largest


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
        return self.has_effect and (self.difference is None or self.difference <= _SERVED_TOLERANCE)


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
    try:
        request = urllib.request.Request(url, content, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=_SECONDS) as answer:
            return json.load(answer)
    except (OSError, ValueError) as error:
        raise AutopeftError(f"{url} does not answer as OpenAI's API ({reason_of(error)}).") from error

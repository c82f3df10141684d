"""`try`: run the finished adapter of a run on inputs of the user."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from peft import PeftModel

from autopeft import data
from autopeft.errors import DataError, ModelError, SpecError
from autopeft.finished.loading import load_with_base
from autopeft.finished.training_notes import finished_weights
from autopeft.model import BaseModel
from autopeft.model.checkpoint_source import reads_images
from autopeft.plugins import IGNORED, LabelSpace, Task, discover
from autopeft.report.write_card import read_trained
from autopeft.store import RunDir
from autopeft.train.encoding import NO_CUT
from autopeft.types import IN_MEMORY, SearchFacts, SearchResult, TrainedPlan, counted

_WRITTEN = ("completion", "chat", "documents")  # kinds of labels that are texts
_MAX_NEW_TOKENS = "128"  # of a written text, if the run derived no length; heuristic


@dataclass(frozen=True, kw_only=True)
class Reply:
    """The answer of a model to one input; fields that its task does not fill are None or empty.

    - `label`: the class of the highest probability.
    - `labels`: the labels above 50 %, if an input may have several.
    - `probabilities`: the probability of each label.
    - `tags`: pairs of a token and its tag.
    """

    input: str
    label: str | None = None
    labels: tuple[str, ...] | None = None
    probabilities: dict[str, float] | None = None
    number: float | None = None
    tags: tuple[tuple[str, str], ...] = ()
    text: str | None = None


def try_run(run: Path, words: Sequence[str]) -> tuple[Reply, ...]:
    """Return the replies of a run's finished adapter to the words of a command line.

    As many words make an input as the rows of the run have texts. The errors are those of `predict`.
    """
    n_texts = _n_texts(_finished(run)[0].setting)
    return predict(run, [words[start : start + n_texts] for start in range(0, len(words), n_texts)])


def predict(run: Path, rows: Sequence[Sequence[str]]) -> tuple[Reply, ...]:
    """Return the replies of the finished adapter of a run, or of the one that `train` wrote into a folder.

    Each of `rows` has the words of one input: a text, a prompt or the path of an image; several texts, if
    rows of the run have several.

    Raises:
        SpecError: The words do not make an input, or are names of files instead of texts. Or the model was in
            memory, or another trainer trained it.
        DataError: An image cannot be read.
        RunDirError: The run has not finished, or has no finished weights.
        ModelError: The base model cannot be loaded, or has no tokenizer.
    """
    result, weights = _finished(run)
    setting, kind = result.setting, result.setting.label_kind
    if not kind or result.spec.model.id == IN_MEMORY:
        raise SpecError(
            f"{run} does not know the inputs of its model: it was in memory or trained by your own trainer. "
            "In Python, autopeft.load_result(run).load() returns the model."
        )
    inputs = [_input(row, setting) for row in rows]
    adapted, base = load_with_base(result, weights)
    if base.tokenizer is None:
        raise ModelError(f"{base.name} has no tokenizer; restore its files in the folder of the model.")
    label_space = LabelSpace(kind=cast(Any, kind), names=setting.label_names)
    task: Task = discover("autopeft.tasks")[setting.task].fitted(
        result.spec.task, label_space, base.tokenizer
    )
    answer = _write if kind in _WRITTEN else _label
    with torch.inference_mode():
        return tuple(answer(each, adapted, base, task, label_space, result) for each in inputs)


def _finished(folder: Path) -> tuple[SearchResult | TrainedPlan, Path]:
    """Load the record and find the weights of a run, or of a folder that `train` wrote."""
    if (trained := read_trained(folder)) is not None:
        return trained, folder
    run = RunDir.open(folder)
    return run.load_result(), finished_weights(run)


def _n_texts(setting: SearchFacts) -> int:
    """Return how many texts make an input."""
    return 1 if setting.label_kind in (*_WRITTEN, "tags") else max(1, len(setting.input_columns))


def _input(words: Sequence[str], setting: SearchFacts) -> tuple[Any, ...]:
    """Check the words of an input, and return it in the form in which the task reads it."""
    n_texts = _n_texts(setting)
    if len(words) != n_texts:
        raise SpecError(
            f"An input has {counted(n_texts, 'text')} ({', '.join(setting.input_columns)}), and this one has "
            f"{len(words)}; pass them one after the other, each in quotes."
        )
    if reads_images(discover("autopeft.tasks")[setting.task].auto_class):
        if not Path(words[0]).is_file():
            raise DataError(f"There is no image {words[0]}; pass paths of image files.")
        return (data.ImageFile(digest="", path=words[0]),)
    if files := [word for word in words if os.path.isfile(word)]:  # noqa: PTH113 - Path.is_file raises if long
        raise SpecError(
            f"{files[0]} is a file, and the adapter takes texts, each in quotes; for a table, pass its texts "
            "in Python to predict of autopeft.load_result(RUN)."
        )
    return (tuple(words[0].split()),) if setting.label_kind == "tags" else tuple(words)


def _label(
    inputs: tuple[Any, ...],
    adapted: PeftModel,
    base: BaseModel,
    task: Any,
    label_space: LabelSpace,
    result: SearchResult | TrainedPlan,
) -> Reply:
    """Answer with a label, several labels, a number or tags, from the logits of the head."""
    words = [getattr(word, "path", word) for word in inputs]
    placeholder = {"classes": (), "tags": [0] * len(words[0])}.get(label_space.kind, 0)
    encoded = task.encode([inputs], [placeholder], base.tokenizer, result.spec.task.max_length or NO_CUT)
    batch = task.collate(encoded.examples, encoded.labels, base.pad_token_id)
    labels = batch.pop("labels")
    features = {name: tensor.to(adapted.device) for name, tensor in batch.items()}
    logits = adapted(**features).logits[0].float().cpu()
    if label_space.kind == "tags":
        guesses = logits.argmax(-1)[labels[0] != IGNORED].tolist()
        tags = zip(words[0], [label_space.names[index] for index in guesses], strict=False)
        return Reply(input=" ".join(words[0]), tags=tuple(tags))
    text = " | ".join(words)
    if label_space.kind == "number":
        return Reply(input=text, number=float(logits[0]))
    shares = logits.sigmoid() if label_space.kind == "classes" else logits.softmax(-1)
    probabilities = dict(zip(label_space.names, shares.tolist(), strict=True))
    if label_space.kind == "classes":
        likely = tuple(name for name, share in probabilities.items() if share > 0.5)
        return Reply(input=text, labels=likely, probabilities=probabilities)
    likeliest = max(probabilities, key=probabilities.__getitem__)
    return Reply(input=text, label=likeliest, probabilities=probabilities)


def _write(
    inputs: tuple[str],
    adapted: PeftModel,
    base: BaseModel,
    task: Any,
    label_space: LabelSpace,
    result: SearchResult | TrainedPlan,
) -> Reply:
    """Answer with the text that the model writes after a prompt by greedy decoding."""
    (prompt,) = inputs
    tokenizer, max_length = base.tokenizer, result.spec.task.max_length or NO_CUT
    if label_space.kind in ("completion", "chat"):  # a chat of one message is a prompt
        encoded = task.model_type.encode("completion", [prompt], ["?"], tokenizer, max_length)
        batch = task.collate(encoded.examples, encoded.labels, base.pad_token_id)
    else:
        ids = tokenizer(prompt)["input_ids"]
        ids = ids[:-1] if ids[-1:] == [tokenizer.eos_token_id] else ids
        batch = {"input_ids": torch.tensor([[*ids, 0]]), "labels": torch.tensor([[IGNORED] * len(ids) + [0]])}
    placed = {name: tensor.to(adapted.device) for name, tensor in batch.items()}
    derived = {decision.setting: decision.value for decision in result.setting.decisions}
    n_tokens = int(derived.get("task.max_new_tokens", _MAX_NEW_TOKENS).replace(",", ""))
    (text,) = task.model_type.generate(adapted, placed, tokenizer, n_tokens)
    return Reply(input=prompt, text=text.strip())

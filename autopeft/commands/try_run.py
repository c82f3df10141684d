"""`try`: run the finished adapter of a run on inputs that the user types."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from peft import PeftModel

from autopeft import data
from autopeft.commands.load import load_with_base
from autopeft.errors import DataError, ModelError, SpecError
from autopeft.model import BaseModel
from autopeft.model.checkpoint_source import reads_images
from autopeft.plugins import IGNORED, LabelSpace, Task, discover
from autopeft.run.best import finished_weights
from autopeft.store import RunDir
from autopeft.train.encoding import NO_CUT
from autopeft.types import IN_MEMORY, SearchResult

_MAX_NEW_TOKENS = "128"  # of a written text, if the run derived no length; heuristic


@dataclass(frozen=True, kw_only=True)
class Reply:
    """The answer of a model to one input; fields that its task does not fill are None or empty.

    - `label`: the class of the highest probability, or the choice.
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


def try_run(run: Path, words: Sequence[str] | Sequence[tuple[str, ...]]) -> tuple[Reply, ...]:
    """Return the replies of a run's finished adapter.

    `words` are texts, prompts or paths of images, one for each input. If rows of the run have several texts,
    as many words make one input. For multiple choice all words are one input, the question first. `words` may
    also be a tuple of words for each input.

    Raises:
        SpecError: The words make no whole inputs, or are names of files instead of texts. Or the model was in
            memory, or another trainer trained it.
        DataError: An image cannot be read.
        RunDirError: The run has not finished, or has no finished weights.
        ModelError: The base model cannot be loaded, or has no tokenizer.
    """
    folder = RunDir.open(run)
    result = folder.load_result()
    setting, kind = result.setting, result.setting.label_kind
    if not kind or result.spec.model.id == IN_MEMORY:
        raise SpecError(
            f"{run} does not know the inputs of its model: it was in memory or trained by your own trainer. "
            "In Python, autopeft.load_result(run).load() returns the model."
        )
    rows = [words] if all(isinstance(word, str) for word in words) else words
    inputs = [each for row in rows for each in _inputs(run, cast(Sequence[str], row), result)]
    if rows is words and len(inputs) != len(rows):
        raise SpecError(
            f"{len(rows)} inputs have {len(inputs)} texts, and this run reads one text an input; join the "
            "words of an input with spaces."
        )
    weights = finished_weights(folder)
    adapted, base = load_with_base(result, weights)
    if base.tokenizer is None:
        raise ModelError(f"{base.name} has no tokenizer; restore its files in the folder of the model.")
    label_space = LabelSpace(kind=cast(Any, kind), names=setting.label_names)
    task: Task = discover("autopeft.tasks")[setting.task].fitted(
        result.spec.task, label_space, base.tokenizer
    )
    answer = _write if kind in ("completion", "chat", "documents") else _label
    with torch.inference_mode():
        return tuple(answer(each, adapted, base, task, label_space, result) for each in inputs)


def _inputs(run: Path, words: Sequence[str], result: SearchResult) -> list[tuple[Any, ...]]:
    """Group the user's words into inputs, in the form in which the task reads them."""
    setting = result.setting
    kind, columns = setting.label_kind, setting.input_columns
    if reads_images(discover("autopeft.tasks")[setting.task].auto_class):
        missing = [word for word in words if not Path(word).is_file()]
        if missing:
            raise DataError(f"There is no image {missing[0]}; pass paths of image files.")
        return [(data.ImageFile(digest="", path=word),) for word in words]
    if files := [word for word in words if os.path.isfile(word)]:  # noqa: PTH113 - Path.is_file raises if long
        raise SpecError(
            f"{files[0]} is a file, and this run takes texts, each in quotes; for a table, pass its texts in "
            f"Python to autopeft.load_result({str(run)!r}).predict."
        )
    if kind == "tags":
        return [(tuple(word.split()),) for word in words]
    if kind == "choice":
        if len(words) < 3:
            raise SpecError("Pass the question and at least two choices, each in quotes.")
        return [tuple(words)]
    n_texts = 1 if kind in ("completion", "chat", "documents") else max(1, len(columns))
    if len(words) % n_texts:
        raise SpecError(
            f"There are {len(words)} texts, and an input has {n_texts} ({', '.join(columns)}); pass them one "
            "after the other, each in quotes."
        )
    return list(zip(*[iter(words)] * n_texts, strict=True))


def _label(
    inputs: tuple[Any, ...],
    adapted: PeftModel,
    base: BaseModel,
    task: Any,
    label_space: LabelSpace,
    result: SearchResult,
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
    names = tuple(words[1:]) if label_space.kind == "choice" else label_space.names
    shares = logits.sigmoid() if label_space.kind == "classes" else logits.softmax(-1)
    probabilities = dict(zip(names, shares.tolist(), strict=True))
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
    result: SearchResult,
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

"""Token classification: one tag for each token of a text, judged by entities or by tokens."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from autopeft import data
from autopeft.errors import DataError, ModelError
from autopeft.metrics import f1_of_counts, pseudo_values
from autopeft.plugins import IGNORED, Batch, Encoded, Evaluation, Example, LabelSpace, TaskDefaults
from autopeft.tasks._shared.batches import Rows, logits_of, pad, pad_features
from autopeft.tasks._shared.token_losses import losses_and_hits
from autopeft.tasks._shared.token_metrics import TOKEN_ACCURACY, TOKEN_METRICS, TokenCounts
from autopeft.tasks._shared.tokens import Row, as_row, chunks, split_rows
from autopeft.tasks._shared.usual import TAGS, require_kind, require_metric
from autopeft.types import DataSpec, MetricFacts, TaskSpec

_ENTITY_TAG = re.compile(r"O|[BIELSU]-.+")  # outside an entity, or a place in it and its type
_BEGIN, _END = "BSU", "ELSU"  # places that begin an entity, or end it: IOBES, and L and U of BILOU
_ENTITY_F1 = MetricFacts(name="entity-f1", label="entity F1", is_share=True)
_ACCURACY = TOKEN_METRICS[TOKEN_ACCURACY]


@dataclass(frozen=True)
class TokenClassification:
    """One tag per token, learned by cross-entropy at the first piece of every token.

    Entities are read as seqeval reads them without a scheme, with L and U of BILOU as E and S. An entity is
    right if its type, start and end are right.
    """

    name: str = "token-classification"
    metric: MetricFacts = _ENTITY_F1
    metrics: tuple[str, ...] = (_ENTITY_F1.name, _ACCURACY.name)
    peft_task_type: str | None = "TOKEN_CLS"
    auto_class: str = "AutoModelForTokenClassification"
    label_space: LabelSpace = field(default_factory=lambda: LabelSpace(kind="tags"))
    notes: tuple[str, ...] = ()
    defaults: TaskDefaults = TAGS

    def read_rows(self, spec: DataSpec) -> data.UncutRows:
        """Read rows by `autopeft.data.read_tokens`."""
        return data.read_tokens(spec)

    def fitted(self, spec: TaskSpec, label_space: LabelSpace, tokenizer: Any = None) -> TokenClassification:
        """Adapt the task to a dataset; tags that mark no entities are judged by token accuracy."""
        require_kind(self.name, label_space, ("tags",))
        no_entity = next((name for name in label_space.names if not _ENTITY_TAG.fullmatch(name)), None)
        metric = spec.metric or (_ENTITY_F1 if no_entity is None else _ACCURACY).name
        require_metric(self.name, metric, self.metrics)
        if metric == _ENTITY_F1.name and no_entity is not None:
            raise DataError(
                f"{metric} needs tags such as B-place, I-place and O, but there is {no_entity!r}; "
                f"set --metric {TOKEN_ACCURACY}."
            )
        return replace(
            self, label_space=label_space, metric=_ENTITY_F1 if metric == _ENTITY_F1.name else _ACCURACY
        )

    def encode(self, inputs: Rows, labels: Sequence[Any], tokenizer: Any, max_length: int) -> Encoded:
        """Tokenize tokens joined by spaces; a tag is at its token's first piece, -100 at other pieces."""
        if not getattr(tokenizer, "is_fast", False):
            raise ModelError(
                "The tokenizer of the base model does not map its pieces to characters; use a base model "
                "with a tokenizer.json."
            )
        examples: list[Example] = []
        aligned: list[Row] = []
        joined = [" ".join(words) for (words,) in inputs]
        for part in chunks(joined):
            encoded = tokenizer(
                joined[part], truncation=True, max_length=max_length, return_offsets_mapping=True
            )
            offsets = encoded.pop("offset_mapping")
            for (words,), tags, pieces in zip(inputs[part], labels[part], offsets, strict=True):
                aligned.append(as_row(_align(words, tags, pieces)))
            examples += split_rows(encoded)
        n_tags = sum(tag != IGNORED for tags in labels for tag in tags)
        n_lost = n_tags - sum(int((row != IGNORED).sum()) for row in aligned)
        note = (
            f"{n_lost} of {n_tags} tags count neither in training nor in the metric: their tokens are beyond "
            f"{max_length} pieces, or the tokenizer has no piece for them."
        )
        notes = (note,) if n_lost else ()
        return Encoded(examples=tuple(examples), labels=tuple(aligned), notes=notes)

    def collate(self, examples: Sequence[Example], labels: Sequence[Any], pad_token_id: int) -> Batch:
        """Make a batch, padded on the right to its longest example: features (B, T), `labels` (B, T)."""
        return {**pad_features(examples, pad_token_id), "labels": pad(labels, IGNORED)}

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Compute the mean cross-entropy over the tagged tokens in nats, shape (); 0 without any."""
        logits, labels = logits_of(model, batch), batch["labels"]
        total = nn.functional.cross_entropy(
            logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum"
        )
        n_terms: Tensor = (labels != IGNORED).sum().clamp(min=1)
        return total / n_terms

    def n_terms(self, batch: Batch) -> int:
        """Count the tokens of the batch that have a tag."""
        return int((batch["labels"] != IGNORED).sum())

    def evaluate(self, model: nn.Module, batches: Iterator[Batch], *, generates: bool = True) -> Evaluation:
        """Compute the metric, the mean loss over tokens, and one score per example, without gradients."""
        counts = TokenCounts()
        rows: list[tuple[list[int], list[int]]] = []  # true and guessed tags of an example's tokens
        with torch.inference_mode():
            for batch in batches:
                logits, labels = logits_of(model, batch), batch["labels"]
                is_labelled = labels != IGNORED
                losses, hits = losses_and_hits(logits[is_labelled], labels[is_labelled]).unbind(1)
                counts.add(losses, hits, is_labelled)
                for guesses, tags in zip(logits.argmax(dim=-1).cpu(), labels.cpu(), strict=True):
                    is_counted = tags != IGNORED
                    rows.append((tags[is_counted].tolist(), guesses[is_counted].tolist()))
        if self.metric is not _ENTITY_F1:
            return counts.evaluation(_ACCURACY)
        pairs = [[self._entities(tags) for tags in row] for row in rows]
        counts_of_rows = [(len(true & guessed), len(true) + len(guessed)) for true, guessed in pairs]
        hits, both = np.array(counts_of_rows, dtype=float).T
        metric = float(f1_of_counts(hits.sum(), both.sum()))
        scores = pseudo_values(metric, f1_of_counts(hits.sum() - hits, both.sum() - both))
        return Evaluation(metric=metric, loss=counts.mean_loss, example_scores=scores)

    def _entities(self, tags: Sequence[int]) -> set[tuple[str, int, int]]:
        """Find entities as (type, first token, last token): neighbours of one type, cut where tags say so."""
        entities, previous, start = set(), "O", 0
        for place, name in enumerate([*(self.label_space.names[tag] for tag in tags), "O"]):
            is_cut = name == "O" or name[0] in _BEGIN or previous[0] in _END or name[2:] != previous[2:]
            if is_cut and previous != "O":
                entities.add((previous[2:], start, place - 1))
            start = place if is_cut else start
            previous = name
        return entities


def _align(words: Sequence[str], tags: Sequence[int], pieces: Sequence[tuple[int, int]]) -> list[int]:
    """Label each token's first piece with its tag, others -100; `pieces` are (start, end) in the text."""
    # For each character of the text the word that it belongs to; the space after a word belongs to the word.
    word_at = [index for index, word in enumerate(words) for _ in range(len(word) + 1)]
    labels, seen = [], set[int]()
    for start, end in pieces:
        if end == start:  # a special token
            labels.append(IGNORED)
            continue
        word = word_at[end - 1]  # by the last character: a piece may begin with the space before its word
        labels.append(IGNORED if word in seen else tags[word])
        seen.add(word)
    return labels


PLUGIN = TokenClassification()

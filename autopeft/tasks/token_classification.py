"""Token classification: one tag for each token of a text; entities count where the tags name them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from seqeval.metrics.sequence_labeling import get_entities
from torch import nn

from autopeft.data import ReadRows, read_tokens
from autopeft.errors import DataError, ModelError, UnknownNameError
from autopeft.extension import Batch, Encoded, Evaluation, Example, Target
from autopeft.metrics import pseudo_values, ratio_scores
from autopeft.records import TaskSpec
from autopeft.tasks._padding import IGNORED, features, padded, padded_features

_ENTITY = re.compile(r"O|[BIELSU]-.+")
# seqeval knows the last tag of an entity as E and one that stands alone as S; to BILOU they are L and U.
_AS_IOBES = str.maketrans("LU", "ES")
Entities = set[tuple[str, int, int]]


@dataclass(frozen=True)
class TokenClassification:
    """One tag per token by cross-entropy over the first piece of every token.

    Entities are read as seqeval reads them without a scheme, L and U of BILOU as its E and S, and count
    where type, start and end are right.
    """

    name: str = "token-classification"
    read_rows: ReadRows = read_tokens
    metric: str = "entity-f1"
    peft_task_type: str | None = "TOKEN_CLS"
    auto_class: str = "AutoModelForTokenClassification"
    target: Target = field(default_factory=lambda: Target(kind="tags"))
    notes: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ("entity-f1", "entity-macro-f1", "token-accuracy")
    greater_is_better: bool = True
    score_span: float | None = None

    def fitted(self, spec: TaskSpec, target: Target, tokenizer: Any = None) -> TokenClassification:
        """The task for a dataset; tags that name no entities (parts of speech) are judged by accuracy."""
        if target.kind != "tags":
            raise DataError(f"{self.name} learns tags, not {target.kind}; choose another --task.")
        names_entities = all(_ENTITY.fullmatch(name) for name in target.names)
        metric = spec.metric or ("entity-f1" if names_entities else "token-accuracy")
        if metric not in self.metrics:
            raise UnknownNameError(f"metric of {self.name}", metric, self.metrics)
        if metric != "token-accuracy" and not names_entities:
            odd = next(name for name in target.names if not _ENTITY.fullmatch(name))
            raise DataError(
                f"{metric} needs tags such as B-place, I-place and O, but there is {odd!r}; "
                "ask for --metric token-accuracy."
            )
        return replace(self, target=target, metric=metric)

    def encode(
        self, inputs: Sequence[Sequence[Any]], labels: Sequence[Any], tokenizer: Any, max_length: int
    ) -> Encoded:
        """Pieces of the tokens with blanks between; labels at each token's first piece, -100 elsewhere."""
        if not getattr(tokenizer, "is_fast", False):
            raise ModelError(
                "The tokenizer does not say which characters its pieces are of (it is no fast one); "
                "use a base model with a tokenizer.json."
            )
        texts = [" ".join(words) for (words,) in inputs]
        encoded = tokenizer(texts, truncation=True, max_length=max_length, return_offsets_mapping=True)
        offsets = encoded.pop("offset_mapping")
        made = [
            _aligned(words, tags, pieces)
            for (words,), tags, pieces in zip(inputs, labels, offsets, strict=True)
        ]
        examples = [{name: encoded[name][row] for name in encoded} for row in range(len(inputs))]
        n_tags = sum(len(tags) for tags in labels)
        n_lost = n_tags - sum(label != IGNORED for row in made for label in row)
        note = (
            f"{n_lost} of {n_tags} tags count neither in training nor in the metric: their tokens lie beyond "
            f"{max_length} pieces, or the tokenizer has no piece for them."
        )
        return Encoded(examples=tuple(examples), labels=tuple(made), notes=(note,) if n_lost else ())

    def collate(self, examples: Sequence[Example], labels: Sequence[Any], pad_token_id: int) -> Batch:
        """One batch padded on the right to its longest example: features (B, T), `labels` (B, T)."""
        return {**padded_features(examples, pad_token_id), "labels": padded(labels, IGNORED)}

    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Mean cross-entropy over the tokens of the batch in nats, shape ()."""
        logits: torch.Tensor = model(**features(batch)).logits
        return nn.functional.cross_entropy(
            logits.float().flatten(0, 1), batch["labels"].flatten(), ignore_index=IGNORED
        )

    def evaluate(self, model: nn.Module, batches: Iterator[Batch]) -> Evaluation:
        """The metric, the mean loss over tokens, and one score per example."""
        losses: list[float] = []
        truth: list[list[int]] = []
        guesses: list[list[int]] = []
        with torch.inference_mode():
            for batch in batches:
                logits, labels = model(**features(batch)).logits.float(), batch["labels"]
                own = nn.functional.cross_entropy(
                    logits.transpose(1, 2), labels, ignore_index=IGNORED, reduction="none"
                )
                losses += own.double().sum(dim=1).tolist()
                for row, tags in zip(logits.argmax(dim=-1), labels, strict=True):
                    truth.append(tags[tags != IGNORED].tolist())
                    guesses.append(row[tags != IGNORED].tolist())
        n_tokens = sum(map(len, truth))
        metric, scores = self._scored(truth, guesses)
        return Evaluation(metric=metric, loss=sum(losses) / max(1, n_tokens), example_scores=scores)

    def _scored(
        self, truth: Sequence[Sequence[int]], guesses: Sequence[Sequence[int]]
    ) -> tuple[float, tuple[float, ...]]:
        if self.metric == "token-accuracy":
            pairs = list(zip(truth, guesses, strict=True))
            hits = [sum(t == g for t, g in zip(*pair, strict=True)) for pair in pairs]
            lengths = [len(row) for row in truth]
            return sum(hits) / sum(lengths), ratio_scores(hits, lengths)
        counts = self._entity_counts(truth, guesses)  # (N, types, 3)
        if self.metric == "entity-f1":
            counts = counts.sum(axis=1, keepdims=True)
        value = float(_f1(counts.sum(axis=0)))
        return value, pseudo_values(value, _f1(counts.sum(axis=0) - counts))

    def _entity_counts(self, truth: Sequence[Sequence[int]], guesses: Sequence[Sequence[int]]) -> Any:
        """Right, true and guessed entities, shape (N, types, 3), over the types that occur anywhere."""
        found = [(self._entities(t), self._entities(g)) for t, g in zip(truth, guesses, strict=True)]
        types = sorted({entity[0] for pair in found for own in pair for entity in own}) or [""]
        counts = np.zeros((len(found), len(types), 3))
        for row, (true, guessed) in enumerate(found):
            for column, entities in enumerate((true & guessed, true, guessed)):
                for kind, n in Counter(entity[0] for entity in entities).items():
                    counts[row, types.index(kind), column] += n
        return counts

    def _entities(self, tags: Sequence[int]) -> Entities:
        names = [self.target.names[tag] for tag in tags]
        return set(get_entities([name[0].translate(_AS_IOBES) + name[1:] for name in names]))


def _f1(counts: Any) -> Any:
    """Mean F1 over types, from right, true and guessed (…, types, 3); 0 where there is neither."""
    right, both = counts[..., 0], counts[..., 1] + counts[..., 2]
    return np.divide(2 * right, both, out=np.zeros_like(right), where=both > 0).mean(axis=-1)


def _aligned(words: Sequence[str], tags: Sequence[int], pieces: Sequence[tuple[int, int]]) -> list[int]:
    """The tag at each token's first piece, -100 elsewhere; `pieces` are (start, end) in the joined text."""
    word_at = [
        index for index, word in enumerate(words) for _ in range(len(word) + 1)
    ]  # and the blank after it
    labels, seen = [], set[int]()
    for start, end in pieces:
        # The last character tells: a piece may begin with the blank before its token.
        word = word_at[end - 1] if end > start else None
        is_first = word is not None and word not in seen
        labels.append(tags[word] if word is not None and is_first else IGNORED)
        seen |= {word} if word is not None else set()
    return labels


PART = TokenClassification()

"""Labels of prompts and padding, and the ids at padding, change neither loss nor gradients.

`by_hand` is the loss over what counts alone, from all log-probabilities, a mask of ones and zeros, and drawn
numbers instead of every label and id that must not matter.
"""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import transformers
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.pre_tokenizers import Whitespace
from toys.bases import toy_base, toy_config
from toys.tasks import CHAT_TEMPLATE, with_end_of_text
from toys.words import CONTEXT, toy_rows

from autopeft.plugins import LabelSpace, discover
from autopeft.types import TaskSpec

TASKS = discover("autopeft.tasks")
IGNORED = -100


@dataclass
class Case:
    """A task with a model whose every parameter trains, and a batch of rows of different lengths."""

    task: Any
    module: Any
    batch: dict[str, torch.Tensor]

    @property
    def is_causal(self):
        return self.task.peft_task_type == "CAUSAL_LM"

    @property
    def is_padding(self):
        return self.batch["attention_mask"] == 0

    @property
    def is_ignored(self):
        return self.batch["labels"] == IGNORED

    def gradients(self, loss):
        self.module.zero_grad()
        loss.backward()
        return {n: torch.zeros_like(p) if p.grad is None else p.grad.clone()
                for n, p in self.module.named_parameters()}  # fmt: skip


def made(task, rows, labels, tokenizer, module):
    encoded = task.encode(rows, labels, tokenizer, CONTEXT)
    batch = task.collate(encoded.examples, encoded.labels, tokenizer.pad_token_id)
    return Case(task, module.requires_grad_(True).eval(), batch)


def completion(tokenizer, architecture):
    texts, _ = toy_rows(4, seed=2)
    task = TASKS["text-generation"].fitted(TaskSpec(), LabelSpace(kind="completion"))
    rows, answers = [(" ".join(t.split()[:2]),) for t in texts], [" ".join(t.split()[2:]) for t in texts]
    return made(task, rows, answers, with_end_of_text(tokenizer), toy_base(architecture).module)


def chat(tokenizer, architecture):
    tokenizer = with_end_of_text(tokenizer)
    tokenizer.chat_template = CHAT_TEMPLATE
    texts, _ = toy_rows(4, seed=2)
    task = TASKS["text-generation"].fitted(TaskSpec(), LabelSpace(kind="chat"))
    turns = [
        [
            {"role": "user", "content": t},
            {"role": "assistant", "content": "good"},
            {"role": "user", "content": "film"},
        ]
        for t in texts
    ]
    answers = ["bad", "fine plot", "lovely food on day", "dull"]
    return made(
        task, [(json.dumps(row),) for row in turns], answers, tokenizer, toy_base(architecture).module
    )


def translation(tokenizer, architecture):
    texts, _ = toy_rows(4, seed=2)
    task = TASKS["text2text-generation"].fitted(TaskSpec(), LabelSpace(kind="completion"))
    answers = ["good", "bad film", "the fine plot on it", "of"]
    return made(task, [(t,) for t in texts], answers, tokenizer, toy_base(architecture).module)


def tags(tokenizer, architecture):
    """Words in two pieces each, of which the first has the label."""
    pieces = {piece: i for i, piece in enumerate(["[PAD]", "[UNK]", "new", "##port", "big", "##ger", "is"])}
    pieces_tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordPiece(pieces, unk_token="[UNK]")), pad_token="[PAD]", unk_token="[UNK]"
    )
    pieces_tokenizer.backend_tokenizer.pre_tokenizer = Whitespace()
    task = TASKS["token-classification"].fitted(TaskSpec(), LabelSpace(kind="tags", names=("B-x", "O")))
    rows = [(("newport", "is", "bigger"),), (("newport",),), (("bigger", "newport", "is", "newport"),)]
    config = toy_config(architecture)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = transformers.AutoModelForTokenClassification.from_config(config)
    return made(task, rows, [(0, 1, 1), (0,), (1, 0, 1, 0)], pieces_tokenizer, module)


CASES = {
    "completion-llama": (completion, "llama-lm"),
    "completion-gpt2": (completion, "gpt2-lm"),
    "completion-moe": (completion, "moe-lm"),
    "chat-llama": (chat, "llama-lm"),
    "text2text-t5": (translation, "t5-lm"),
    "tags-bert": (tags, "bert"),
}


@pytest.fixture(params=CASES)
def case(request, tokenizer):
    make, architecture = CASES[request.param]
    case = make(tokenizer, architecture)
    assert case.is_padding.any() and case.is_ignored.any() and not case.is_ignored.all()
    return case


def drawn(like, seed, highest):
    return torch.randint(0, highest, like.shape, generator=torch.Generator().manual_seed(seed))


def by_hand(case, seed):
    """The loss by hand, with random ids at padding and random labels wherever nothing is learned."""
    labels, n_ids = case.batch["labels"], case.module.get_input_embeddings().num_embeddings
    ids = torch.where(case.is_padding, drawn(case.batch["input_ids"], seed, n_ids), case.batch["input_ids"])
    features = {"input_ids": ids, "attention_mask": case.batch["attention_mask"]}
    n_outputs = case.module.config.num_labels if case.task.peft_task_type == "TOKEN_CLS" else n_ids
    label_space = torch.where(case.is_ignored, drawn(labels, seed + 1, n_outputs), labels)
    if case.task.peft_task_type == "SEQ_2_SEQ_LM":
        start = torch.full_like(label_space[:, :1], case.module.config.decoder_start_token_id)
        features["decoder_input_ids"] = torch.cat([start, label_space[:, :-1]], dim=1)
    chances = case.module(**features).logits.log_softmax(-1)
    counts = (~case.is_ignored).float()
    if case.is_causal:
        chances, label_space, counts = chances[:, :-1], label_space[:, 1:], counts[:, 1:]
    picked = chances.gather(2, label_space.unsqueeze(2))[..., 0]
    return -(picked * counts).sum() / counts.sum()


def test_labels_of_prompt_and_padding_and_ids_at_padding_move_neither_loss_nor_gradients(case):
    measured = case.task.loss(case.module, case.batch)
    loss, gradients = float(measured.detach()), case.gradients(measured)
    other = by_hand(case, seed=0)
    assert float(other.detach()) == pytest.approx(loss, abs=1e-6)
    for name, gradient in case.gradients(other).items():
        torch.testing.assert_close(gradient, gradients[name], atol=1e-6, rtol=1e-4, msg=name)
    assert sum(float(g.abs().sum()) for g in gradients.values()) > 0


def test_a_tokenizer_that_pads_on_the_left_changes_no_batch(tokenizer):
    """Batches are padded on the right whatever the tokenizer's side is."""
    left = copy.deepcopy(tokenizer)
    left.padding_side = "left"
    for make, architecture in CASES.values():
        first, second = (make(padding, architecture).batch for padding in (tokenizer, left))
        assert all(torch.equal(first[name], second[name]) for name in first)
        assert (second["attention_mask"].diff(dim=1) <= 0).all()

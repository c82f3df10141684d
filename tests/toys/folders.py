"""A tiny model and a tiny dataset on disk, for searches of seconds."""

from __future__ import annotations

import csv
from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

from toys.bases import toy_config
from toys.words import CONTEXT, LABEL_NAMES, SPECIAL, VOCABULARY, toy_rows


def word_tokenizer() -> transformers.PreTrainedTokenizerFast:
    """One token per word of VOCABULARY, [CLS] before and [SEP] after."""
    words = Tokenizer(WordLevel({word: i for i, word in enumerate(VOCABULARY)}, unk_token="[UNK]"))
    words.pre_tokenizer = Whitespace()
    words.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token"), SPECIAL, strict=True))
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=words,
        model_max_length=CONTEXT,
        model_input_names=["input_ids", "attention_mask"],
        **names,
    )


def write_model(folder: Path) -> Path:
    """A tiny BERT without a task head, and its tokenizer."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformers.AutoModel.from_config(toy_config("bert", hidden=32, dropout=0.1)).save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    return folder


def write_data(folder: Path) -> Path:
    """train.csv, validation.csv and test.csv of 120, 40 and 40 rows; words decide labels."""
    folder.mkdir()
    texts, labels = toy_rows(200, seed=7)
    ends = {"train": slice(0, 120), "validation": slice(120, 160), "test": slice(160, 200)}
    for split, rows in ends.items():
        with (folder / f"{split}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["text", "label"])
            writer.writerows(
                (text, LABEL_NAMES[label]) for text, label in zip(texts[rows], labels[rows], strict=True)
            )
    return folder

"""Texts of which only a part is tokenized: the tokens that are used are those of the whole text."""

from __future__ import annotations

import numpy as np
import pytest
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from autopeft.plugins import LabelSpace, discover
from autopeft.tasks._shared.tokens import tokenized
from autopeft.types import TaskSpec

N_CHARACTERS = 20_000
SEEN = ["the plot of the film was great, and the staff of the plot was not", "aaa  aab    ababab\n\nöß日本語"]


def drawn(alphabet, seed=0, n=N_CHARACTERS):
    return "".join(np.random.default_rng(seed).choice(list(alphabet), size=n))


TEXTS = {
    "words": " ".join(np.random.default_rng(1).choice(" ".join(SEEN).split(), size=N_CHARACTERS // 5)),
    "one word": drawn("abfhlmoptw", 2),
    "one letter": "a" * N_CHARACTERS,
    "spaces first": " " * (N_CHARACTERS // 2) + drawn("ab ", 3),
    "four bytes each": drawn("日本語🙂", 4),
}
KINDS = {
    "bytes": (models.BPE(), None, pre_tokenizers.ByteLevel(add_prefix_space=False)),
    "merged across words": (models.BPE(unk_token="<unk>"), normalizers.Replace(" ", "▁"), None),
    "unigram": (models.Unigram(), None, pre_tokenizers.Metaspace()),
    "pieces of words": (models.WordPiece(unk_token="<unk>"), None, pre_tokenizers.BertPreTokenizer()),
    "characters": (models.BPE(unk_token="<unk>"), None, pre_tokenizers.Split("", "isolated")),
}
TRAINERS = {models.BPE: trainers.BpeTrainer, models.Unigram: trainers.UnigramTrainer}


def trained(kind):
    model, normalizer, pre_tokenizer = KINDS[kind]
    tokenizer = Tokenizer(model)
    if normalizer:
        tokenizer.normalizer = normalizer
    if pre_tokenizer:
        tokenizer.pre_tokenizer = pre_tokenizer
    trainer = TRAINERS.get(type(model), trainers.WordPieceTrainer)
    special = {"special_tokens": ["<unk>", "<s>", "</s>"], "vocab_size": 400, "show_progress": False}
    unknown = {"unk_token": "<unk>"} if trainer is trainers.UnigramTrainer else {}
    tokenizer.train_from_iterator(SEEN * 20, trainer(**special, **unknown))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "</s>"}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(request):
    return trained(request.param)


class Measured:
    """A tokenizer that notes the characters it gets at once."""

    def __init__(self, tokenizer):
        self.tokenizer, self.n_characters = tokenizer, []

    def __getattr__(self, name):
        return getattr(self.tokenizer, name)

    def __call__(self, *columns, **options):
        self.n_characters.append(sum(map(len, (text for column in columns for text in column))))
        return self.tokenizer(*columns, **options)


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("text", TEXTS)
def test_long_text_has_the_tokens_that_the_whole_text_has(tokenizer, text, side):
    tokenizer.truncation_side = side
    examples, cut = tokenized(tokenizer, [[TEXTS[text], "ab"]], max_length=30)
    expected = tokenizer([TEXTS[text], "ab"], truncation=True, max_length=30)["input_ids"]
    assert [example["input_ids"].tolist() for example in examples] == expected
    n_tokens = len(tokenizer(TEXTS[text])["input_ids"])
    assert len(cut) == (n_tokens > 30) and all(30 < length <= n_tokens for length in cut)


@pytest.mark.parametrize("text", TEXTS)
def test_pair_with_a_long_text_has_the_tokens_of_the_whole_pair(tokenizer, text):
    tokenizer.truncation_side = "right"
    for columns in ([[TEXTS[text]], ["ab of"]], [["ab of"], [TEXTS[text]]]):
        (example,), _ = tokenized(tokenizer, columns, max_length=30)
        expected = tokenizer(*columns, truncation=True, max_length=30)["input_ids"]
        assert [example["input_ids"].tolist()] == expected


# The tokens of a run of one letter depend on how long all of it is.
@pytest.mark.parametrize("text", [name for name in TEXTS if name != "one letter"])
def test_long_prompt_keeps_its_end_and_a_long_completion_its_beginning(tokenizer, text):
    task = discover("autopeft.tasks")["text-generation"].fitted(TaskSpec(), LabelSpace(kind="completion"))
    long = "ab" + TEXTS[text].strip() + "\n"
    made = task.encode([(long,), ("ab\n",)], ["of", long], tokenizer, 30)
    asked, answered = tokenizer([long + "of", "ab\n" + long])["input_ids"]  # with <s> and </s>
    if min(len(asked), len(answered)) > 200:  # a word of many letters may be one token
        first, second = (example["input_ids"].tolist() for example in made.examples)
        assert first == [asked[0], *asked[-29:]]
        assert second == answered[:30]


@pytest.mark.parametrize("name", ["text-classification", "token-classification", "text2text-generation"])
def test_cost_of_a_long_text_follows_what_is_used_of_it(name):
    words = TEXTS["words"].split() * 20
    tokenizer, text = Measured(trained("bytes")), " ".join(words)
    task = discover("autopeft.tasks")[name]
    cell, label = (tuple(words), (0,) * len(words)) if name.startswith("token") else (text, text)
    made = task.encode([(cell,)] * 3, [label] * 3, tokenizer, 30)
    assert [len(example["input_ids"]) for example in made.examples] == [30] * 3
    assert len(text) > 300_000 > 10 * sum(tokenizer.n_characters)
    other = [(cell[:900],)] * 3
    np.testing.assert_equal(task.encode(other, [label[:900]] * 3, tokenizer, 30).examples, made.examples)

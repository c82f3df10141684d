"""Texts as rows of tokens, and prompts with completions as the one text that a served model reads."""

from __future__ import annotations

import copy

import pytest
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from toys.tasks import TOYS, make_toy

from autopeft.plugins import LabelSpace, discover
from autopeft.tasks._shared.tokens import token_pairs, tokenized
from autopeft.types import TaskSpec

PLUGIN = discover("autopeft.tasks")["text-generation"]
TASKS = [name for name in TOYS if name != "image-classification"]
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ?:[/]<|>\n"
MERGED = [("P", "a"), ("i", "s"), ("▁", "Pa"), ("▁", "P"), ("\n", "\n")]
TEMPLATES = {
    "llama": "<s>{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]{% else %} "
    "{{ m.content }}</s>{% endif %}{% endfor %}",
    "zephyr": "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}",
}


def sentencepiece(prefix):
    """A tokenizer that puts a space before every text, by one of the two ways of SentencePiece's models."""
    words = ["<unk>", "<s>", "</s>", "▁", *LETTERS, *("".join(pair) for pair in MERGED)]
    bpe = models.BPE(vocab={word: i for i, word in enumerate(words)}, merges=MERGED, unk_token="<unk>")
    tokenizer = Tokenizer(bpe)
    if prefix == "normalizer":
        both = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        tokenizer.normalizer = normalizers.Sequence(both)
    elif prefix == "pre-tokenizer":
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    else:
        tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse()])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>" if prefix == "normalizer" else "<s> $A", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def encoded(tokenizer, prompt, answer, max_length=60):
    task = PLUGIN.fitted(TaskSpec(), LabelSpace(kind="completion"), tokenizer)
    made = task.encode([(prompt,)], [answer], tokenizer, max_length)
    labels = made.labels[0].tolist()
    return made.examples[0]["input_ids"].tolist(), [i for i in labels if i != -100]


@pytest.mark.parametrize("prefix", ["normalizer", "pre-tokenizer", "none"])
@pytest.mark.parametrize("template", TEMPLATES)
def test_chats_have_the_tokens_of_the_rendered_text(prefix, template, recwarn):
    tokenizer = sentencepiece(prefix)
    tokenizer.chat_template = TEMPLATES[template]
    turns = [{"role": "user", "content": "capital?"}, {"role": "assistant", "content": "Paris"}]
    asked = tokenizer.apply_chat_template(turns[:1], tokenize=False, add_generation_prompt=True)
    expected = tokenizer(tokenizer.apply_chat_template(turns, tokenize=False), add_special_tokens=False)[
        "input_ids"
    ]
    ids, learned = encoded(tokenizer, "capital?", "Paris")
    assert ids == expected
    assert ids[: len(ids) - len(learned)] == tokenizer(asked, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("prefix", ["normalizer", "pre-tokenizer", "none"])
@pytest.mark.parametrize(("prompt", "answer"), [("capital?", "Paris"), ("Q: a\nA:", " Paris"), ("a\n", "is")])
def test_plain_texts_have_the_tokens_of_the_whole_between_one_beginning_and_one_end(prefix, prompt, answer):
    tokenizer = sentencepiece(prefix)
    between = "" if prompt.endswith("\n") or answer.startswith(" ") else "\n"
    whole = tokenizer(prompt + between + answer, add_special_tokens=False)["input_ids"]
    ids, learned = encoded(tokenizer, prompt, answer)
    assert ids == [1, *whole, 2]
    assert ids[: len(ids) - len(learned)] == [
        1,
        *tokenizer(prompt + between, add_special_tokens=False)["input_ids"],
    ]


def test_a_seam_within_a_token_leaves_both_texts_as_they_are_alone():
    tokenizer = sentencepiece("normalizer")
    (pair,) = token_pairs(tokenizer, ["a\n"], ["\nis"], add_special_tokens=False)
    assert pair == tuple(tokenizer(["a\n", "\nis"], add_special_tokens=False)["input_ids"])
    assert len(tokenizer("a\n\nis", add_special_tokens=False)["input_ids"]) < sum(map(len, pair)) - 1


@pytest.mark.parametrize("max_length", [3, 5, 6, 40])
@pytest.mark.parametrize("n_columns", [1, 2])
def test_texts_are_cut_as_the_tokenizer_cuts_them(tokenizer, n_columns, max_length):
    texts = ["good " * (1 + i % 5) for i in range(2100)]  # nine chunks
    columns = [texts, texts[::-1]][:n_columns]
    examples, cut = tokenized(tokenizer, columns, max_length=max_length)
    expected = tokenizer(*columns, truncation=True, max_length=max_length)
    for name, rows in expected.items():
        assert [example[name].tolist() for example in examples] == rows
    assert cut == [len(ids) for ids in tokenizer(*columns)["input_ids"] if len(ids) > max_length]


@pytest.mark.parametrize("name", TASKS)
def test_encoded_tokens_and_labels_are_arrays_that_cannot_be_written_to(name, tokenizer):
    made = make_toy(discover("autopeft.tasks")[name], tokenizer).encoded()
    rows = [row for example in made.examples for row in example.values()]
    rows += [label for label in made.labels if not isinstance(label, int)]
    assert {(row.dtype.name, row.flags.writeable) for row in rows} == {("int32", False)}


def without_separator(tokenizer):
    """As GPT-2's and Qwen's tokenizers, which write two texts of a pair as one."""
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.backend_tokenizer.post_processor = None
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Split(
        "\n", "isolated"
    )  # a line break is a token here
    tokenizer.backend_tokenizer.normalizer = None
    return tokenizer


def test_a_line_break_stands_between_the_texts_of_a_pair_where_no_token_does(tokenizer):
    task, plain = discover("autopeft.tasks")["text-classification"], without_separator(tokenizer)
    (written,), (usual,) = (
        [row["input_ids"] for row in task.encode([("good", "bad")], [0], each, 16).examples]
        for each in (plain, tokenizer)
    )
    assert written.tolist() == plain(["good\nbad"])["input_ids"][0] and len(written) == 3
    assert usual.tolist() == tokenizer("good", "bad")["input_ids"]

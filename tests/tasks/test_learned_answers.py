"""Every answer of a chat is learned, as TRL learns it; templates with and without marks of their own."""

from __future__ import annotations

import json

import pytest
from datasets import Dataset
from toys.bases import toy_base
from toys.tasks import CHAT_TEMPLATE

from autopeft.plugins import LabelSpace, discover, last_answer
from autopeft.types import TaskSpec

PLUGIN = discover("autopeft.tasks")["text-generation"]
TURNS = [
    *({"role": "system", "content": "day"}, {"role": "user", "content": "the food"}),
    *({"role": "assistant", "content": "good fine"}, {"role": "user", "content": "a film"}),
    *({"role": "assistant", "content": "bad"}, {"role": "user", "content": "the day"}),
    {"role": "assistant", "content": "poor it"},
]
MARKED = (
    "{% for m in messages %}{% if m.role == 'assistant' %}time {% generation %}{{ m.content }} [SEP] "
    "{% endgeneration %}{% else %}day {{ m.content }} [SEP] {% endif %}{% endfor %}"
    "{% if add_generation_prompt %}time {% endif %}"
)
# As Qwen 3's: the last answer has empty thoughts, earlier ones none, and its prompt opens none.
WITH_LATE_THOUGHTS = CHAT_TEMPLATE.replace(
    "{{ m.content }}", "{{ 'and and ' if m.role == 'assistant' and loop.last else '' }}{{ m.content }}"
)


def encoded(tokenizer, turns, *, max_length=99):
    task = PLUGIN.fitted(TaskSpec(), LabelSpace(kind="chat"), tokenizer)
    made = task.encode([(json.dumps(turns[:-1]),)], [turns[-1]["content"]], tokenizer, max_length)
    (example,), (labels,) = made.examples, made.labels
    return example["input_ids"].tolist(), labels.tolist(), made.notes


def learned(tokenizer, turns, **limits):
    """The tokens of a chat, with _ where nothing is learned."""
    ids, labels, notes = encoded(tokenizer, turns, **limits)
    assert all(label in (-100, i) for i, label in zip(ids, labels, strict=True))
    return " ".join("_" if i == -100 else tokenizer.convert_ids_to_tokens(i) for i in labels), notes


@pytest.mark.parametrize("template", [CHAT_TEMPLATE, MARKED])
def test_earlier_answers_are_learned_with_their_ends(words, template):
    words.chat_template = template
    text = "_ _ _ _ _ _ _ _ good fine [SEP] _ _ _ _ _ bad [SEP] _ _ _ _ _ poor it [SEP]"
    assert learned(words, TURNS) == (text, ())


def test_labels_are_those_of_trl_with_assistant_only_loss(words, tmp_path):
    trl = pytest.importorskip("trl")
    words.chat_template = MARKED
    trainer = trl.SFTTrainer(
        model=toy_base("llama-lm").module,
        args=trl.SFTConfig(
            output_dir=str(tmp_path), assistant_only_loss=True, use_cpu=True, report_to="none"
        ),
        train_dataset=Dataset.from_list([{"messages": TURNS}]),
        processing_class=words,
    )
    batch = trainer.data_collator(list(trainer.train_dataset))
    ids, labels, _ = encoded(words, TURNS)
    assert (batch["input_ids"].tolist(), batch["labels"].tolist()) == ([ids], [labels])


def test_blocks_of_text_are_those_of_trl_with_the_packing_that_exports_name(words, tmp_path):
    trl = pytest.importorskip("trl")
    texts = ["the food good fine", "a film", "the day bad poor it it it the day"]
    settings = {"packing": True, "packing_strategy": "wrapped", "max_length": 5}
    trainer = trl.SFTTrainer(
        model=toy_base("llama-lm").module,
        args=trl.SFTConfig(
            output_dir=str(tmp_path), use_cpu=True, report_to="none", eos_token="[SEP]", **settings
        ),
        train_dataset=Dataset.from_list([{"text": text} for text in texts]),
        processing_class=words,
    )
    task = PLUGIN.fitted(TaskSpec(), LabelSpace(kind="documents"), words)
    blocks = task.encode([(text,) for text in texts], [""] * 3, words, 5).examples
    assert [block["input_ids"].tolist() for block in blocks] == list(trainer.train_dataset["input_ids"])


def test_thoughts_that_only_the_last_answer_has_hide_no_earlier_one(words):
    words.chat_template = WITH_LATE_THOUGHTS
    text, notes = learned(words, TURNS)
    assert (text.split()[8:11], text.split()[-5:]) == (
        ["good", "fine", "[SEP]"],
        "and and poor it [SEP]".split(),
    )
    assert notes == ()


def test_a_greeting_before_the_first_question_hides_no_later_answer(words):
    """Templates such as SmolLM2's read the first message, and cannot write a chat without any."""
    words.chat_template = "{% if messages[0].role == 'system' %}{% endif %}" + CHAT_TEMPLATE
    text, notes = learned(words, [{"role": "assistant", "content": "and"}, *TURNS[1:]])
    assert text == "_ _ _ _ _ _ _ _ good fine [SEP] _ _ _ _ _ bad [SEP] _ _ _ _ _ poor it [SEP]"
    assert notes == ()


@pytest.mark.parametrize("template", [CHAT_TEMPLATE, MARKED])
def test_an_earlier_turn_without_text_is_learned_only_if_its_calls_are_written(words, template):
    """An empty answer taught to answer nothing, where a template writes no calls."""
    calls = [{"type": "function", "function": {"name": "bad"}}]
    turns = [TURNS[1], {"role": "assistant", "content": "", "tool_calls": calls}, *TURNS[3:]]
    words.chat_template = template
    assert learned(words, turns)[0] == "_ " * 11 + "bad [SEP] _ _ _ _ _ poor it [SEP]"
    written = "{% for call in m.tool_calls or [] %}{{ call.function.name }} {% endfor %}{{ m.content }}"
    words.chat_template = template.replace("{{ m.content }}", written)
    assert learned(words, turns)[0].count("bad [SEP]") == 2


def test_an_end_that_the_template_does_not_write_is_learned_after_every_answer(words):
    """As GLM's: an answer ends where the next turn begins."""
    words.chat_template = CHAT_TEMPLATE.replace(" [SEP]", "").replace("{{ 'day '", "{{ '[SEP] day '")
    assert learned(words, TURNS)[0].endswith("_ _ _ _ bad [SEP] _ _ _ _ poor it [SEP]")


def test_a_prompt_that_loses_its_beginning_keeps_the_labels_of_its_end(words):
    words.chat_template = CHAT_TEMPLATE
    text = learned(words, TURNS)[0].split()
    for max_length in (9, 14):
        assert learned(words, TURNS, max_length=max_length)[0].split() == text[-max_length:]


def test_texts_are_compared_with_the_last_answer(words):
    words.chat_template = CHAT_TEMPLATE
    ids, labels, _ = encoded(words, TURNS)
    start, answer = last_answer([*labels, -100])
    assert (start, answer) == (len(ids) - 3, ids[-3:])

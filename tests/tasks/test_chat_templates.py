"""Templates that open thoughts, write no end, or take no plain texts."""

from __future__ import annotations

import copy

import pytest
from toys.tasks import CHAT_TEMPLATE

from autopeft.errors import DataError
from autopeft.plugins import LabelSpace, discover
from autopeft.tasks._shared.chat_templates import split_at_answer
from autopeft.types import TaskSpec

PLUGIN = discover("autopeft.tasks")["text-generation"]
USER, ANSWER = {"role": "user", "content": "the  food"}, {"role": "assistant", "content": "good"}
# As SmolVLM's: a text's letters are not parts, so that nothing is written.
PARTS = CHAT_TEMPLATE.replace(
    "{{ m.content }}",
    "{% for part in m.content %}{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}",
)
FIRST_PART = CHAT_TEMPLATE.replace("m.content", "(m.content[0].text + '')")  # LLaVA's: fails without parts


def with_template(tokenizer, template):
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template = template
    return tokenizer


def encoded(tokenizer, prompts, answers):
    task = PLUGIN.fitted(TaskSpec(), LabelSpace(kind="completion"), tokenizer)
    made = task.encode([(prompt,) for prompt in prompts], answers, tokenizer, 40)
    return task, [" ".join(tokenizer.convert_ids_to_tokens(e["input_ids"])) for e in made.examples]


@pytest.mark.parametrize("template", [PARTS, FIRST_PART])
def test_a_template_that_takes_no_plain_texts_is_refused(template, words):
    words.chat_template = template
    with pytest.raises(DataError, match="template"):
        encoded(words, ["the food"], ["good"])


@pytest.mark.parametrize("change", ["| trim", "| replace('  ', ' ')", ".split('</think>')[-1]"])
def test_a_template_may_change_texts_by_its_own_rules(change, words):
    words.chat_template = CHAT_TEMPLATE.replace("m.content", f"(m.content {change})")
    for content in ("  good \n", "<think>\nso </think>\n\n good"):
        turns, answer = [{**USER, "content": f" a  film {content}"}], {**ANSWER, "content": content}
        asked = words.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        whole = words.apply_chat_template([*turns, answer], tokenize=False)
        assert split_at_answer(words, turns, answer) == (asked, whole.removeprefix(asked))


THINKING = CHAT_TEMPLATE.replace("time {% endif %}", "time <think>\n{% endif %}")
SHORT = THINKING.replace("m.content", "m.content.split('</think>')[-1]")
EMPTY = THINKING.replace("m.content", "('' if m.role == 'user' else '<think></think>') + m.content")
CLOSED = CHAT_TEMPLATE.replace("time {% endif %}", "time <think>\n\n</think>\n\n{% endif %}")
SO = "<think>\nso\n</think>\n\ngood"


@pytest.mark.parametrize(
    ("template", "answer", "learned"),
    [
        (THINKING, "good", "\n</think>\n\ngood [SEP] "),
        (THINKING, SO, "so\n</think>\n\ngood [SEP] "),
        (THINKING, "<think>so</think>good", "so</think>good [SEP] "),
        (SHORT, SO, "so\n</think>\n\ngood [SEP] "),
        (EMPTY, "good", "</think>good [SEP] "),
    ],
)
def test_an_answer_closes_the_thoughts_that_its_prompt_opens(template, answer, learned, words):
    """As the prompts of DeepSeek-R1-Distill and Nemotron end; the model is served with the opening tag."""
    words.chat_template = template
    asked = words.apply_chat_template([USER], tokenize=False, add_generation_prompt=True)
    assert asked.endswith("time <think>\n")
    assert split_at_answer(words, [USER], {**ANSWER, "content": answer}) == (asked, learned)


def test_an_answer_follows_thoughts_that_its_prompt_closed(words):
    words.chat_template = CLOSED
    before, after = split_at_answer(words, [USER], ANSWER)
    assert before.endswith("time <think>\n\n</think>\n\n") and after == "good [SEP] "


def end_of(words, template):
    words = with_template(words, template)
    _, (text,) = encoded(words, ["the food"], ["good"])
    return text.split()[-1]


def test_an_answer_without_an_end_is_given_one(words):
    """As GLM-4's, whose models end an answer with the token that begins the next turn."""
    words.add_special_tokens({"additional_special_tokens": ["<user>", "<bot>"]})
    glm = (
        "{% for m in messages %}{{ '<user>' if m.role == 'user' else '<bot>' }} {{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}<bot> {% endif %}"
    )
    assert end_of(words, glm) == "<user>"
    assert end_of(words, glm.replace("<user>", "day").replace("<bot>", "time")) == "[SEP]"
    words.bos_token = "<user>"  # begins texts, and ends none
    assert end_of(words, glm) == "[SEP]"

"""What tokenizers, templates and configs of common language models bring: starts, ends, dates, penalties."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
from tokenizers.processors import TemplateProcessing
from toys.bases import toy_base
from toys.tasks import CHAT_TEMPLATE

from autopeft.errors import DataError
from autopeft.plugins import IGNORED, LabelSpace, discover
from autopeft.types import TaskSpec

PLUGIN = discover("autopeft.tasks")["text-generation"]
START = "[CLS]"


@pytest.fixture
def starting(words):
    """The same with a token before every text, as those of Gemma and Llama have it."""
    words.bos_token = START
    start = (START, words.bos_token_id)
    words.backend_tokenizer.post_processor = TemplateProcessing(single=f"{START} $A", special_tokens=[start])
    return words


def encoded(tokenizer, kind, texts, answers=None, *, max_length, **spec):
    task = PLUGIN.fitted(TaskSpec(**spec), LabelSpace(kind=kind), tokenizer)
    return task, task.encode([(text,) for text in texts], answers or [""] * len(texts), tokenizer, max_length)


def shown(tokenizer, made):
    return [" ".join(tokenizer.convert_ids_to_tokens(example["input_ids"])) for example in made.examples]


def test_every_block_begins_as_the_tokenizer_begins_texts(starting):
    texts = ["good " * 9, "the film was " * 2, "bad " * 7]
    _, made = encoded(starting, "documents", texts, max_length=6)
    rows = [example["input_ids"] for example in made.examples]
    assert all(row[0] == starting.bos_token_id and len(row) <= 6 for row in rows)
    # All else is as without a token at the beginning, in its order.
    end = starting.eos_token_id
    plain = starting(texts, add_special_tokens=False)["input_ids"]
    expected = [i for piece in plain for i in [*piece, end]]
    assert [i for row in rows for i in row if i != starting.bos_token_id] == expected
    np.testing.assert_equal(made.labels, tuple(rows))


@pytest.mark.parametrize("template", [None, "{{ bos_token }} " + CHAT_TEMPLATE])
def test_prompts_that_are_cut_keep_their_beginning_token(template, starting):
    starting.chat_template = template
    texts = ["the film was good and the food was bad and", "good", "bad", "fine"]
    _, made = encoded(starting, "completion", texts, ["fine"] * 4, max_length=9)
    assert made.notes
    for row, labels in zip(shown(starting, made), made.labels, strict=True):
        assert row.startswith(START) and row.count(START) == 1
        assert labels[0] == IGNORED and len(labels) <= 9


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<think>\n\n</think>\n\nyes", "yes"),
        ("<think>no, or\nno</think>yes", "yes"),
        ("no\n</think>\n\nyes", "yes"),
        ("yes <think>no</think>", "yes <think>no</think>"),
        ("<think>no", "<think>no"),
    ],
)
def test_thoughts_are_no_part_of_an_answer(text, answer):
    from autopeft.tasks._shared.writing import _find_answer

    assert _find_answer(text, None) == answer
    assert _find_answer("<think>\n\n</think>\n\nyes", "^(yes|no)") == "yes"


def test_the_end_of_a_turn_ends_what_is_generated(words):
    """As ChatML on base models, whose texts end with another token."""
    from autopeft.tasks.text_generation import _end_ids

    model = toy_base("llama-lm").module
    model.generation_config.eos_token_id = None
    words.eos_token = "[PAD]"
    assert _end_ids(model, words) == [words.pad_token_id]
    words.chat_template = CHAT_TEMPLATE
    assert _end_ids(model, words) == sorted({words.pad_token_id, words.convert_tokens_to_ids("[SEP]")})
    words.chat_template = "{% for m in messages %}{{ m.content }} day {% endfor %}"
    assert _end_ids(model, words) == [words.pad_token_id]


@pytest.mark.parametrize(
    "template",
    [
        "{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
        "{{ date_string }}",
        "{{ strftime_now('%d %b %Y') }}",
    ],
)
def test_templates_write_the_same_date_every_day(words, template):
    """As Llama 3, SmolLM3 and gpt-oss write it: the date that is passed, or today's."""
    words = copy.deepcopy(words)
    words.chat_template = f"{template} {CHAT_TEMPLATE}"
    chat = json.dumps([{"role": "user", "content": "the food"}])
    rendered = []
    original = words.apply_chat_template
    words.apply_chat_template = lambda *args, **kwargs: (
        rendered.append(original(*args, **kwargs)) or rendered[-1]
    )
    encoded(words, "chat", [chat], ["good"], max_length=40)
    assert rendered and all(text.startswith("26 Jul 2024 ") for text in rendered)


MISTRAL = (
    "{% if messages[0].role == 'system' %}{% set system, rest = messages[0].content, messages[1:] %}"
    "{% else %}{% set rest = messages %}{% endif %}{% for m in rest %}{% if m.role == 'user' %}day "
    "{% if loop.last and system is defined %}{{ system + '\\n\\n' }}{% endif %}{{ m.content }} [SEP] "
    "{% else %}{{ m.content }} [SEP] {% endif %}{% endfor %}"
)


def test_a_system_message_that_an_answer_moves_is_refused(words):
    """Mistral's template writes it into the user's last turn, while nothing follows it."""
    words.chat_template = MISTRAL
    turns = [{"role": "system", "content": "and so"}, {"role": "user", "content": "the film"}]
    with pytest.raises(DataError, match="system"):
        encoded(words, "chat", [json.dumps(turns)], ["good"], max_length=40)

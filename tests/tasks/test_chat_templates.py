"""Templates that want parts, JSON text or thoughts, or that write no end: no text of a chat is lost."""

from __future__ import annotations

import copy
import json

import pytest
from toys.tasks import CHAT_TEMPLATE, with_end_of_text

from autopeft.errors import DataError
from autopeft.plugins import LabelSpace, discover
from autopeft.tasks._shared.chat_templates import divided, end_of_answer
from autopeft.types import TaskSpec

PLUGIN = discover("autopeft.tasks")["text-generation"]
USER, ANSWER = {"role": "user", "content": "the  food"}, {"role": "assistant", "content": "good"}
START = "{% if add_generation_prompt %}time {% endif %}"
# As those of SmolVLM and Idefics: a text's letters are no parts, so that nothing is written.
PLUGINS = (
    "{% for m in messages %}{{ 'day ' if m.role == 'user' else 'time ' }}"
    "{% for part in m.content %}{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}"
    " [SEP] {% endfor %}" + START
)
FIRST_PART = CHAT_TEMPLATE.replace("m.content", "(m.content[0].text + '')")  # LLaVA: fails without parts
NO_TEXTS = CHAT_TEMPLATE.replace("m.content", "''")
AS_WRITTEN = "{% if messages[0].content is string %}{{ raise_exception('no') }}{% endif %}" + CHAT_TEMPLATE


@pytest.fixture
def words(tokenizer):
    """The toy tokenizer with an end-of-text token, which adds nothing at the beginning."""
    return with_end_of_text(tokenizer)


def with_template(tokenizer, template):
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template = template
    return tokenizer


def encoded(tokenizer, prompts, answers, *, kind="completion"):
    task = PLUGIN.fitted(TaskSpec(), LabelSpace(kind=kind), tokenizer)
    made = task.encode([(prompt,) for prompt in prompts], answers, tokenizer, 40)
    texts = [" ".join(tokenizer.convert_ids_to_tokens(e["input_ids"])) for e in made.examples]
    return task, texts, made.notes


@pytest.mark.parametrize("template", [PLUGINS, FIRST_PART])
def test_contents_are_given_as_parts_where_texts_are_lost_or_refused(template, words):
    words.chat_template = template
    _, texts, _ = encoded(words, ["the food", "a film"], ["good", "bad"])
    assert texts == ["day the food [SEP] time good [SEP]", "day a film [SEP] time bad [SEP]"]
    assert end_of_answer(words).split() == ["[SEP]"]


@pytest.mark.parametrize("template", [NO_TEXTS, AS_WRITTEN])
def test_a_template_that_writes_no_texts_is_refused(template, words):
    words.chat_template = template
    with pytest.raises(DataError, match="refuses the row the food with the roles user, assistant"):
        encoded(words, ["the food"], ["good"])


@pytest.mark.parametrize(
    "change", ["| trim", "| replace('  ', ' ')", ".split('</think>')[-1]", "| replace('/think', '')"]
)
def test_a_template_may_change_texts_by_its_own_rules(change, words):
    words.chat_template = CHAT_TEMPLATE.replace("m.content", f"(m.content {change})")
    for content in ("  good \n", "<think>\nso </think>\n\n good", "<think>so</think>", "/think good"):
        turns, answer = [{**USER, "content": f" a  film {content}"}], {**ANSWER, "content": content}
        asked = words.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        whole = words.apply_chat_template([*turns, answer], tokenize=False)
        assert divided(words, turns, answer) == (asked, whole.removeprefix(asked))


def calls_of(arguments):
    calls = [{"type": "function", "function": {"name": "of", "arguments": arguments}}]
    return [
        USER,
        {"role": "assistant", "content": "", "tool_calls": calls},
        {"role": "tool", "content": "it"},
    ]


def test_arguments_of_calls_are_given_as_json_text_where_a_template_adds_them_to_one(words):
    """As DeepSeek-V3's does; data has them as text, which templates of other models read as records."""
    joined = "{% for m in messages %}{% for call in m.tool_calls or [] %}{{ '' + call.function.arguments }} "
    words.chat_template = joined + "{% endfor %}{% endfor %}" + CHAT_TEMPLATE
    before, after = divided(words, calls_of({"x": "é"}), ANSWER)
    assert before.startswith('{"x": "é"} day the  food') and after == "good [SEP] "
    chat = json.dumps(calls_of({"x": 1}))
    assert encoded(words, [chat], ["good"], kind="chat")[1][0].endswith("time good [SEP]")
    words.chat_template = words.chat_template.replace("'' +", "1 +")
    with pytest.raises(DataError, match="refuses the row"):
        encoded(words, [chat], ["good"], kind="chat")


@pytest.mark.parametrize("fault", ["1 // 0", "range(10 ** 9)", "10.0 ** 999", "''.x.y()"])
def test_a_template_that_fails_in_its_own_way_is_refused(words, fault):
    words.chat_template = "{{ " + fault + " }}" + CHAT_TEMPLATE
    with pytest.raises(DataError, match="refuses the row"):
        encoded(words, [json.dumps([USER])], ["good"], kind="chat")


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
    assert divided(words, [USER], {**ANSWER, "content": answer}) == (asked, learned)


def test_an_answer_follows_thoughts_that_its_prompt_closed(words):
    words.chat_template = CLOSED
    before, after = divided(words, [USER], ANSWER)
    assert before.endswith("time <think>\n\n</think>\n\n") and after == "good [SEP] "


def ends(words, template):
    words = with_template(words, template)
    task, (text,), notes = encoded(words, ["the food"], ["good"])
    return text.split()[-1], notes, task.text_form


def test_an_answer_without_an_end_is_given_one(words):
    """As GLM-4's, whose models end an answer with the token that begins the next turn."""
    words.add_special_tokens({"additional_special_tokens": ["<user>", "<bot>"]})
    glm = (
        "{% for m in messages %}{{ '<user>' if m.role == 'user' else '<bot>' }} {{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}<bot> {% endif %}"
    )
    end, notes, form = ends(words, glm)
    assert (end, notes) == ("<user>", ())
    assert form.endswith("the completion as the answer, with <user> behind it.")
    end, notes, form = ends(words, glm.replace("<user>", "day").replace("<bot>", "time"))
    assert end == "[SEP]" and form.endswith("with [SEP] behind it.")
    told = "The chat template of the base model writes nothing behind an answer; [SEP] is learned as its end."
    assert notes == (told,)
    words.bos_token = "<user>"  # begins texts, and ends none
    assert ends(words, glm)[0] == "[SEP]"
    assert ends(words, CHAT_TEMPLATE)[1:] == ((), form.replace(", with [SEP] behind it", ""))

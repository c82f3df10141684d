"""Chats written by a tokenizer's own template: the same on every day, and divided where the answer begins."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Sequence
from typing import Any

from jinja2 import TemplateError
from transformers.utils.chat_template_utils import render_jinja_template

# Messages that occur in no template: what stands around them in a rendered chat is the template's.
_QUESTION, _ANSWER, _NEXT_QUESTION = "question 5f2a", "answer 5f2a", "question 6b3c"
# Some templates write a date into every row, by default today's. With the fallback date of Llama 3's, rows
# are the same on every day and in every time zone.
_DATE_STRING = "26 Jul 2024"
_DATE_PARTS = {"%d": "26", "%b": "Jul", "%B": "July", "%m": "07", "%Y": "2024", "%y": "24", "%A": "Friday"}
# A macro that takes the place of the clock `strftime_now`, and formats our date.
_REPLACED = "".join(f" | replace('{code}', '{part}')" for code, part in _DATE_PARTS.items())
_CLOCK = f"{{%- macro strftime_now(form) -%}}{{{{ form{_REPLACED} }}}}{{%- endmacro -%}}"

THOUGHTS = r"(?:\w+:)?think(?:ing)?"  # the name of the tags around them
# An opening tag at the end of a prompt: the model is to write its thoughts there, and the closing tag.
_OPENING_TAG = re.compile(rf"<({THOUGHTS})>\s*\Z")
_CLOSING_TAG = re.compile(rf"</{THOUGHTS}>")
_NO_THOUGHTS = re.compile(rf"<({THOUGHTS})>\s*</\1>\s*\Z")
_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")  # marks what an assistant writes
_PARTS_IN_TEXT = re.compile(r"""(['"])type\1: ?(['"])text\2""")  # a list of parts, as Python prints it

Turn = dict[str, Any]

# What Python raises in a template that adds a text to a number, reads a missing key, or divides by zero.
_PYTHON_FAULTS = (TypeError, ValueError, ArithmeticError, LookupError, AttributeError, RecursionError)
TEMPLATE_FAULTS = (TemplateError, *_PYTHON_FAULTS)


def rendered(
    tokenizer: Any, turns: Sequence[Turn], *, tools: Any = None, add_generation_prompt: bool = False
) -> str:
    """Write a chat as one text by the tokenizer's template; jinja2's TemplateError if that refuses it."""
    text: str = tokenizer.apply_chat_template(
        list(turns),
        tools=tools,
        tokenize=False,
        add_generation_prompt=add_generation_prompt,
        date_string=_DATE_STRING,
        chat_template=_template(tokenizer, tools),
    )
    return text


def _template(tokenizer: Any, tools: Any = None) -> str:
    """Get the template for chats with or without tools, with our date in place of its clock."""
    template: str = tokenizer.get_chat_template(None, tools)
    return _CLOCK + template if "strftime_now" in template else template


def divided(
    tokenizer: Any, turns: Sequence[Turn], answer: Turn, *, tools: Any = None
) -> tuple[str, str] | None:
    """Render a chat as two texts, cut where the assistant begins to answer; None if that cannot be found.

    A chat that the template refuses, or whose texts it leaves out, is tried in two other forms: some
    templates want the arguments of calls as JSON text, others (SmolVLM's) each content as a list of parts.

    Raises:
        One of TEMPLATE_FAULTS: The template refuses the first form, and no other form is written whole.
    """
    faults: list[Exception] = []
    chat = [*turns, answer]
    for form in _FORMS:
        if form is not list and form(chat) == chat:
            continue
        try:
            pair = _divided(tokenizer, turns, answer, form=form, tools=tools)
            if pair is None or _holds_texts(pair, turns, answer, form=form):
                return pair
            if form is list:
                # If a chat of these roles with contents of our own is written whole, the template's rules
                # changed this one's texts, such as by trimming.
                *marked, last = [{**turn, "content": f"content {n} 5f2a"} for n, turn in enumerate(chat)]
                marked_pair = _divided(tokenizer, marked, last, form=list, tools=tools)
                if marked_pair is not None and _holds_texts(marked_pair, marked, last, form=list):
                    return pair
            faults.append(TemplateError("it leaves out the texts of question and answer"))
        except TEMPLATE_FAULTS as error:
            faults.append(error)
    raise faults[0]


def _divided(
    tokenizer: Any, turns: Sequence[Turn], answer: Turn, *, form: Form, tools: Any
) -> tuple[str, str] | None:
    """Render a chat in one form, and cut it where the answer begins.

    1. Mistral's template writes the system's text into the last turn, so that an answer moves it. If an
       answer changes the prompt, the system's text is put into the user's last turn.
    2. DeepSeek's ends a prompt with an opening tag for thoughts, but writes an answer without it.
    3. Other templates end a prompt with both tags and nothing between them.
    """
    prompt = rendered(tokenizer, form(turns), tools=tools, add_generation_prompt=True)
    opening, empty = _OPENING_TAG.search(prompt), _NO_THOUGHTS.search(prompt)
    for question in (turns, _with_system_in_last(turns)):
        text = rendered(tokenizer, form([*question, answer]), tools=tools)
        if text.startswith(prompt):
            return prompt, text[len(prompt) :]
        if opening and text.startswith(prompt[: opening.start()]):
            return prompt, _after_opening(text[opening.start() :], answer["content"], tag=opening[1])
        if empty and text.startswith(prompt[: empty.start()]):
            completion = text[empty.start() :]
            return None if completion.startswith(f"<{empty[1]}>") else (prompt, completion)
    return None


def earlier_answers(
    tokenizer: Any, turns: Sequence[Turn], prompt: str, *, tools: Any = None
) -> list[tuple[int, int]] | None:
    """Find the assistant's earlier answers in the prompt of `divided`, as character positions (start, end).

    Templates may mark answers as `generation`. Without marks, an answer begins where the prompt of the chat
    before it ends, and ends where the next question begins. Left out are answers of weight 0, and those
    without content, unless the template writes their calls of tools.

    Returns None if an answer is not found, since the template writes it differently once turns follow it.
    """
    answers = [i for i, turn in enumerate(turns) if turn["role"] == "assistant"]
    writes_calls = "tool_calls" in _template(tokenizer, tools)
    learned = [
        turns[i].get("weight") != 0
        and bool(turns[i]["content"].strip() or (writes_calls and turns[i].get("tool_calls")))
        for i in answers
    ]
    if not any(learned):
        return []
    for form in _FORMS:
        with contextlib.suppress(*TEMPLATE_FAULTS):
            if rendered(tokenizer, form(turns), tools=tools, add_generation_prompt=True) != prompt:
                continue
            if _GENERATION.search(_template(tokenizer, tools)):
                spans = _marked(tokenizer, form(turns), tools)
            else:
                spans = [  # a greeting in the first turn answers nothing
                    _span(tokenizer, form, turns[: i + 1], prompt, tools) if i and counts else (0, 0)
                    for i, counts in zip(answers, learned, strict=True)
                ]
            if len(spans) == len(answers) and None not in spans:
                return [span for span, counts in zip(spans, learned, strict=True) if span and counts]
    return None


def _marked(tokenizer: Any, turns: Sequence[Turn], tools: Any) -> list[tuple[int, int] | None]:
    _, spans = render_jinja_template(
        [list(turns)],
        tools=tools,
        chat_template=_template(tokenizer, tools),
        return_assistant_tokens_mask=True,
        date_string=_DATE_STRING,
        **tokenizer.special_tokens_map,
    )
    return [(start, end) for start, end in spans[0]]


def _span(
    tokenizer: Any, form: Form, turns: Sequence[Turn], prompt: str, tools: Any
) -> tuple[int, int] | None:
    """Find the last of some turns, the assistant's, in a longer prompt; None if it is not there."""
    start = rendered(tokenizer, form(turns[:-1]), tools=tools, add_generation_prompt=True)
    for tag in (_OPENING_TAG, _NO_THOUGHTS):  # which earlier answers lack
        if not prompt.startswith(start) and (thoughts := tag.search(start)):
            start = start[: thoughts.start()]
    question = {"role": "user", "content": _NEXT_QUESTION}
    text = rendered(tokenizer, form([*turns, question]), tools=tools).partition(_NEXT_QUESTION)[0]
    header = start_of_next_turn(tokenizer).removeprefix(end_of_answer(tokenizer) or "")
    text = text.removesuffix(header)
    is_kept = prompt.startswith(start) and prompt.startswith(text) and len(text) > len(start)
    return (len(start), len(text)) if is_kept else None


def _after_opening(text: str, answer: str, *, tag: str) -> str:
    r"""Rewrite a rendered answer to follow an opening tag: thoughts, if any, the closing tag, the rest.

    Example:
        >>> _after_opening("yes<end>", "yes", tag="think")
        '\n</think>\n\nyes<end>'
        >>> _after_opening("yes<end>", "<think>so</think>yes", tag="think")
        'so\n</think>\n\nyes<end>'
        >>> _after_opening("<think></think>yes<end>", "yes", tag="think")
        '</think>yes<end>'
    """
    start, end = f"<{tag}>", f"</{tag}>"
    if text.startswith(start):
        return text.removeprefix(start).lstrip("\n")
    if end in text:
        return text
    thoughts = answer.partition(end)[0].strip().removeprefix(start).strip() if end in answer else ""
    return f"{thoughts}\n{end}\n\n" + text.lstrip("\n")


def _holds_texts(pair: tuple[str, str], turns: Sequence[Turn], answer: Turn, *, form: Form) -> bool:
    """Whether the prompt has the user's last text, and the completion the answer's, apart from blanks.

    False if a template wrote a list of parts as Python prints it: that holds the texts, but is no text.
    """
    questions = [str(turn["content"]) for turn in turns if turn["role"] == "user"][-1:]
    answers = [_CLOSING_TAG.split(answer["content"])[-1]]
    is_whole = all(
        _without_blanks(content) in _without_blanks(text)
        for text, contents in zip(pair, (questions, answers), strict=True)
        for content in contents
    )
    parts = [repr(turn["content"]) for turn in form([*turns, answer]) if isinstance(turn["content"], list)]
    return is_whole and not any(part in text for part in parts for text in pair)


def _without_blanks(text: str) -> str:
    return "".join(text.split())


def _with_text_arguments(turns: Sequence[Turn]) -> list[Turn]:
    return [
        {**turn, "tool_calls": _arguments_as_text(turn["tool_calls"])} if "tool_calls" in turn else turn
        for turn in turns
    ]


def _arguments_as_text(calls: Any) -> Any:
    if isinstance(calls, list):
        return [_arguments_as_text(call) for call in calls]
    if not isinstance(calls, dict):
        return calls
    return {
        key: json.dumps(value, ensure_ascii=False)
        if key == "arguments" and not isinstance(value, str)
        else _arguments_as_text(value)
        for key, value in calls.items()
    }


def _with_parts(turns: Sequence[Turn]) -> list[Turn]:
    return [{**turn, "content": [{"type": "text", "text": turn["content"]}]} for turn in turns]


Form = Callable[[Sequence[Turn]], list[Turn]]
_FORMS: tuple[Form, ...] = (list, _with_text_arguments, _with_parts)


def _with_system_in_last(turns: Sequence[Turn]) -> list[Turn]:
    """Move the texts of the system's turns to the beginning of the user's last turn."""
    system = [str(turn["content"]) for turn in turns if turn["role"] == "system"]
    merged = [dict(turn) for turn in turns if turn["role"] != "system"]
    questions = [turn for turn in merged if turn["role"] == "user"]
    if not system or not questions:
        return list(turns)
    questions[-1]["content"] = "\n\n".join([*system, str(questions[-1]["content"])])
    return merged


def end_of_answer(tokenizer: Any) -> str | None:
    """Find what the chat template writes after an answer, without leading blanks; None if it is unknown."""
    text = _probed(tokenizer, _QUESTION, _ANSWER)
    return None if text is None else text.rpartition(_ANSWER)[2].lstrip()


def start_of_next_turn(tokenizer: Any) -> str:
    """Find what the chat template writes between an answer and the next question, without leading blanks."""
    text = _probed(tokenizer, _QUESTION, _ANSWER, _NEXT_QUESTION) or ""
    return text.rpartition(_ANSWER)[2].partition(_NEXT_QUESTION)[0].lstrip()


def _probed(tokenizer: Any, *contents: str) -> str | None:
    """Render messages of user and assistant in turn; None without a template that writes all of them."""
    if not getattr(tokenizer, "chat_template", None):
        return None
    roles = ("user", "assistant")
    turns = [{"role": roles[i % 2], "content": content} for i, content in enumerate(contents)]
    for form in _FORMS:
        with contextlib.suppress(*TEMPLATE_FAULTS):
            text = rendered(tokenizer, form(turns))
            if all(content in text for content in contents) and not _PARTS_IN_TEXT.search(text):
                return text
    return None

"""Chats written by a tokenizer's own template: the same on every day, and divided where the answer begins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jinja2 import TemplateError

_ANSWER = "answer"  # a content, after which a chat template writes the end of a turn
# Some templates write the date into every row, today's unless they are told one. With this one, which that of
# Llama 3 falls back to, rows are the same on every day and in every time zone.
_DATE_STRING = "26 Jul 2024"
_DATE_PARTS = {"%d": "26", "%b": "Jul", "%B": "July", "%m": "07", "%Y": "2024", "%y": "24", "%A": "Friday"}
_REPLACED = "".join(f" | replace('{code}', '{part}')" for code, part in _DATE_PARTS.items())
_CLOCK = f"{{%- macro strftime_now(form) -%}}{{{{ form{_REPLACED} }}}}{{%- endmacro -%}}"

Turn = dict[str, Any]


def rendered(
    tokenizer: Any, turns: Sequence[Turn], *, tools: Any = None, add_generation_prompt: bool = False
) -> str:
    """The chat as one text, by the tokenizer's template; raises jinja2's TemplateError where that refuses."""
    template = str(tokenizer.chat_template)
    clock = {}
    if "strftime_now" in template and not isinstance(tokenizer.chat_template, dict):
        clock = {"chat_template": _CLOCK + template}
    text: str = tokenizer.apply_chat_template(
        list(turns),
        tools=tools,
        tokenize=False,
        add_generation_prompt=add_generation_prompt,
        date_string=_DATE_STRING,
        **clock,
    )
    return text


def divided(
    tokenizer: Any, turns: Sequence[Turn], answer: Turn, *, tools: Any = None
) -> tuple[str, str] | None:
    """The text up to where the assistant begins to answer, and the text from there on; None: not to be told.

    Mistral's template writes the system's text into the last turn, which is another one once there is an
    answer. There it is put into the user's last turn, if that changes nothing of what is answered.
    """
    before = rendered(tokenizer, turns, tools=tools, add_generation_prompt=True)
    for same in (turns, _with_system_in_last(turns)):
        text = rendered(tokenizer, [*same, answer], tools=tools)
        if text.startswith(before):
            return before, text[len(before) :]
    return None


def _with_system_in_last(turns: Sequence[Turn]) -> list[Turn]:
    """The turns without those of the system, whose texts begin the user's last one."""
    system = [str(turn["content"]) for turn in turns if turn["role"] == "system"]
    others = [dict(turn) for turn in turns if turn["role"] != "system"]
    questions = [turn for turn in others if turn["role"] == "user"]
    if not system or not questions:
        return list(turns)
    questions[-1]["content"] = "\n\n".join([*system, str(questions[-1]["content"])])
    return others


def end_of_answer(tokenizer: Any) -> str:
    """What the chat template writes behind an answer, without leading blanks; empty where it has none."""
    if not getattr(tokenizer, "chat_template", None):
        return ""
    turns = [{"role": "user", "content": "question"}, {"role": "assistant", "content": _ANSWER}]
    try:
        return rendered(tokenizer, turns).rpartition(_ANSWER)[2].lstrip()
    except TemplateError:
        return ""

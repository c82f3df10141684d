"""Chats rendered by a tokenizer's own template, with a fixed date, and split where the answer begins."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from jinja2 import TemplateError

from autopeft.errors import DataError

# Messages that occur in no template: the text around them in a rendered chat is the template's.
_QUESTION, _ANSWER, _NEXT_QUESTION = "question 5f2a", "answer 5f2a", "question 6b3c"
# Some templates write today's date into every row. With the fallback date of Llama 3's, rows are the same on
# every day and in every time zone.
_DATE_STRING = "26 Jul 2024"
_DATE_PARTS = {"%d": "26", "%b": "Jul", "%B": "July", "%m": "07", "%Y": "2024", "%y": "24", "%A": "Friday"}
# A macro that replaces the clock `strftime_now`; transformers passes no function to a template.
_REPLACED = "".join(f" | replace('{code}', '{part}')" for code, part in _DATE_PARTS.items())
_CLOCK = f"{{%- macro strftime_now(form) -%}}{{{{ form{_REPLACED} }}}}{{%- endmacro -%}}"

THOUGHTS = r"(?:\w+:)?think(?:ing)?"  # the name of the tags around them
# The end of a prompt that opens the model's thoughts, and maybe closes them.
_OPENED = re.compile(rf"<({THOUGHTS})>\s*(</\1>\s*)?\Z")

Turn = dict[str, Any]

TEMPLATE_FAULTS = (TemplateError, TypeError)  # the second if a template adds a record to a text


def _rendered(
    tokenizer: Any, turns: Sequence[Turn], *, tools: Any = None, add_generation_prompt: bool = False
) -> str:
    """Render a chat as one text; raise one of TEMPLATE_FAULTS if the template refuses it."""
    text: str = tokenizer.apply_chat_template(
        list(turns),
        tools=tools,
        tokenize=False,
        add_generation_prompt=add_generation_prompt,
        date_string=_DATE_STRING,
        chat_template=_template(tokenizer, tools),
    )
    return text


def _template(tokenizer: Any, tools: Any) -> str:
    template: str = tokenizer.get_chat_template(None, tools)
    return _CLOCK + template if "strftime_now" in template else template


def split_at_answer(
    tokenizer: Any, turns: Sequence[Turn], answer: Turn, *, tools: Any = None
) -> tuple[str, str] | None:
    """Render a chat as the prompt that a server sends, and the completion that answers it.

    Some templates end a prompt with an opening tag for thoughts (DeepSeek's), or with empty thoughts, but
    write neither before an answer. The completion then follows what the prompt opens. None if the template
    writes the prompt differently once it is answered, as Mistral's does with a system message.
    """
    prompt = _rendered(tokenizer, turns, tools=tools, add_generation_prompt=True)
    text = _rendered(tokenizer, [*turns, answer], tools=tools)
    if text.startswith(prompt):
        return prompt, text[len(prompt) :]
    opened = _OPENED.search(prompt)
    if opened is None or not text.startswith(prompt[: opened.start()]):
        return None
    completion = text[opened.start() :]
    if opened[2] is None:
        return prompt, _after_opening_tag(completion, answer["content"], tag=opened[1])
    return None if completion.startswith(f"<{opened[1]}>") else (prompt, completion)


def _after_opening_tag(text: str, answer: str, *, tag: str) -> str:
    r"""Rewrite a rendered answer to follow an opening tag: thoughts, if any, the closing tag, the rest.

    Example:
        >>> _after_opening_tag("yes<end>", "yes", tag="think")
        '\n</think>\n\nyes<end>'
    """
    start, end = f"<{tag}>", f"</{tag}>"
    if text.startswith(start):
        return text.removeprefix(start).lstrip("\n")
    if end in text:
        return text
    thoughts = answer.partition(end)[0].strip().removeprefix(start).strip() if end in answer else ""
    return f"{thoughts}\n{end}\n\n" + text.lstrip("\n")


def earlier_answers(
    tokenizer: Any, turns: Sequence[Turn], prompt: str, *, tools: Any = None
) -> list[tuple[int, int]] | None:
    """Find the assistant's earlier answers in a rendered prompt, as character positions (start, end).

    Left out are a greeting in the first turn, and answers without text, unless the template writes their tool
    calls. None if an answer is not found.
    """
    end = end_of_answer(tokenizer) or ""
    stop = end or start_of_next_turn(tokenizer)
    writes_calls = "tool_calls" in _template(tokenizer, tools)
    spans = []
    for i, turn in enumerate(turns):
        has_text = turn["content"].strip() or (writes_calls and turn.get("tool_calls"))
        if i == 0 or turn["role"] != "assistant" or not has_text:
            continue
        start = _rendered(tokenizer, turns[:i], tools=tools, add_generation_prompt=True)
        if not prompt.startswith(start):
            start = _OPENED.sub("", start)  # earlier answers have no thoughts
        place = prompt.find(stop, len(start))
        if not stop or not prompt.startswith(start) or place < 0:
            return None
        spans.append((len(start), place + len(end)))
    return spans


def end_of_answer(tokenizer: Any) -> str | None:
    """Return what the chat template writes after an answer, without leading blanks; None if unknown."""
    text = _probed(tokenizer, _QUESTION, _ANSWER)
    return None if text is None else text.rpartition(_ANSWER)[2].lstrip()


def start_of_next_turn(tokenizer: Any) -> str:
    """Return what the template writes between an answer and the next question, without leading blanks."""
    text = _probed(tokenizer, _QUESTION, _ANSWER, _NEXT_QUESTION) or ""
    return text.rpartition(_ANSWER)[2].partition(_NEXT_QUESTION)[0].lstrip()


def _probed(tokenizer: Any, *contents: str) -> str | None:
    """Render messages of user and assistant in turn; None without a template, or if it refuses."""
    if not getattr(tokenizer, "chat_template", None):
        return None
    roles = ("user", "assistant")
    try:
        text = _rendered(
            tokenizer, [{"role": roles[i % 2], "content": content} for i, content in enumerate(contents)]
        )
    except TEMPLATE_FAULTS:
        return None
    if not all(content in text for content in contents):
        raise DataError(
            "The chat template of the base model leaves out the texts of messages; use another base model."
        )
    return text

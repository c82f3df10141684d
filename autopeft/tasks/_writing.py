"""Texts as token ids for a language model: blocks of one text, or a prompt with what is to follow it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from autopeft.errors import DataError
from autopeft.extension import Encoded, Example
from autopeft.tasks._padding import IGNORED

_AT_ONCE = 1000  # texts that a tokenizer gets at once; chosen by hand


def blocks(texts: Sequence[str], tokenizer: Any, max_length: int, *, apart: bool) -> Encoded:
    """One text cut into blocks of `max_length` tokens, the last one shorter; every token is learned.

    Args:
        texts: The pieces in order.
        tokenizer: Of the base model.
        max_length: Tokens per block, >= 2.
        apart: Whether the pieces are documents of their own, which end with the end-of-text token.

    Raises:
        DataError: There are not two blocks.
    """
    ids: list[int] = []
    end = tokenizer.eos_token_id
    for start in range(0, len(texts), _AT_ONCE):
        chunk = list(texts[start : start + _AT_ONCE])
        # A text that goes on has no seams: tokenised piece by piece, SmolLM2's loss on it is 0.3 nats higher.
        pieces = chunk if apart else ["".join(chunk)]
        for own in tokenizer(pieces, add_special_tokens=apart, verbose=False)["input_ids"]:
            ids += own
            ids += [end] if apart and end is not None and (not own or own[-1] != end) else []
    rows = [ids[i : i + max_length] for i in range(0, len(ids), max_length)]
    rows = [row for row in rows if len(row) > 1]
    if len(rows) < 2:
        raise DataError(
            f"The {len(texts)} texts have {len(ids)} tokens, {len(rows)} block of {max_length}; at least 2 "
            "blocks are needed in every split: lower --max-length or add text."
        )
    note = f"{len(texts)} texts were packed into {len(rows)} blocks of {max_length} tokens."
    return Encoded(examples=tuple(map(_example, rows)), labels=tuple(rows), notes=(note,))


def completions(
    prompts: Sequence[str], answers: Sequence[str], tokenizer: Any, max_length: int, *, chat: bool
) -> Encoded:
    """A prompt and its completion per example; labels are -100 at the prompt.

    A tokenizer with a chat template makes a user's message of a prompt. Without one the completion
    follows the prompt, after a line break where there is no white space between, and ends the text.
    What is longer than `max_length` loses the prompt's beginning first, down to half of the length.

    Raises:
        DataError: More than half of the prompts would be cut; a chat for a tokenizer without a template.
    """
    if chat and not tokenizer.chat_template:
        raise DataError(
            "The rows are chats, but the tokenizer of the base model has no chat template; use an instruct "
            "model, or rows with a prompt and a completion."
        )
    pairs = [
        (_in_chat if tokenizer.chat_template else _plain)(prompt, answer, tokenizer, chat=chat)
        for prompt, answer in zip(prompts, answers, strict=True)
    ]
    longest = max((len(prompt) + len(answer) for prompt, answer in pairs), default=0)
    rows, labels, n_prompts, n_answers = [], [], 0, 0
    for prompt, answer in pairs:
        n_answer = min(len(answer), max(max_length - len(prompt), max_length // 2))
        n_prompt = min(len(prompt), max_length - n_answer)
        n_prompts, n_answers = n_prompts + (n_prompt < len(prompt)), n_answers + (n_answer < len(answer))
        kept = prompt[len(prompt) - n_prompt :], answer[:n_answer]
        rows.append([*kept[0], *kept[1]])
        labels.append([*[IGNORED] * n_prompt, *kept[1]])
    if 2 * n_prompts > len(rows):
        raise DataError(
            f"{n_prompts} of {len(rows)} prompts do not fit into {max_length} tokens with their completions; "
            f"the longest example has {longest}: raise --max-length, or shorten the prompts."
        )
    cut = {"prompts lost their beginning": n_prompts, "completions their end": n_answers}
    said = [f"{n} of {len(rows)} {what}" for what, n in cut.items() if n]
    note = f"{' and '.join(said)}: an example has at most {max_length} tokens, the longest {longest}."
    return Encoded(examples=tuple(map(_example, rows)), labels=tuple(labels), notes=(note,) if said else ())


def _example(ids: Sequence[int]) -> Example:
    return {"input_ids": list(ids), "attention_mask": [1] * len(ids)}


def _in_chat(prompt: str, answer: str, tokenizer: Any, *, chat: bool) -> tuple[list[int], list[int]]:
    """The template's text up to where the assistant begins, and from there on."""
    turns = json.loads(prompt) if chat else [{"role": "user", "content": prompt}]
    before = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    whole = tokenizer.apply_chat_template([*turns, {"role": "assistant", "content": answer}], tokenize=False)
    if not whole.startswith(before):
        raise DataError(
            "The chat template of the base model writes a prompt differently once it is answered, so that "
            "prompt and completion cannot be told apart; use rows with a plain text, or another base model."
        )
    ids = [
        tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        for text in (before, whole[len(before) :])
    ]
    return ids[0], ids[1]


def _plain(prompt: str, answer: str, tokenizer: Any, *, chat: bool) -> tuple[list[int], list[int]]:
    seam = "" if prompt[-1:].isspace() or answer[:1].isspace() else "\n"
    before = list(tokenizer(prompt + seam, verbose=False)["input_ids"])
    ends = {tokenizer.eos_token_id, tokenizer.sep_token_id}
    while before and before[-1] in ends:  # what some tokenizers put after every text
        before.pop()
    after = list(tokenizer(answer, add_special_tokens=False, verbose=False)["input_ids"])
    return before, [*after, *([tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else [])]

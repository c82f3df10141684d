"""Text generation by a causal language model: all of a text, or what follows a prompt."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple, cast

import numpy as np
from torch import nn

from autopeft.data import chat_of
from autopeft.errors import DataError, reason_of
from autopeft.plugins import (
    IGNORED,
    PROMPTED_KINDS,
    Batch,
    Encoded,
    Example,
    LabelKind,
    LabelSpace,
    last_answer,
)
from autopeft.tasks._shared.batches import pad, without_labels
from autopeft.tasks._shared.chat_templates import (
    TEMPLATE_FAULTS,
    earlier_answers,
    end_of_answer,
    split_at_answer,
    start_of_next_turn,
)
from autopeft.tasks._shared.generating import generate_greedily
from autopeft.tasks._shared.tokens import Row, as_row, chunks, filled, read_only, token_pairs
from autopeft.tasks._shared.writing import TextModel, WritingTask, all_dropped
from autopeft.types import counted, shortened

# The tokens of a prompt and of its completion, and the labels of the prompt; None if its earlier answers were
# not found.
_Labelled = tuple[list[int], list[int], list[int] | None]


def _encode(
    kind: LabelKind, texts: Sequence[str], completions: Sequence[str], tokenizer: Any, max_length: int
) -> Encoded:
    """Make blocks of `max_length` tokens, or an example of each prompt with its completion."""
    if kind in PROMPTED_KINDS:
        return _encode_completions(texts, completions, tokenizer, max_length, is_chat=kind == "chat")
    return _encode_blocks(texts, tokenizer, max_length)


def _encode_blocks(texts: Sequence[str], tokenizer: Any, max_length: int) -> Encoded:
    """Pack texts into blocks of `max_length` tokens, the last block shorter; every token is a label.

    An end-of-text token follows each text. If the tokenizer begins texts with a token, every block begins
    with it: Gemma cannot read text without it.
    """
    end, start = tokenizer.eos_token_id, _start_of(tokenizer)
    tokens_of_chunks = [as_row([])]
    for chunk in chunks(texts):  # several at once, which a fast tokenizer spreads over the cores
        ids: list[int] = []
        for text in tokenizer(list(texts[chunk]), verbose=False)["input_ids"]:
            ids += text if end is None or text[-1:] == [end] else [*text, end]
        tokens_of_chunks.append(as_row(ids))
    tokens, start_row = read_only(np.concatenate(tokens_of_chunks)), as_row(start)
    size = max(1, max_length - len(start))
    rows = [tokens[i : i + size] for i in range(0, len(tokens), size)]  # views, no copies
    if start:
        rows = [read_only(row if row[0] == start[0] else np.concatenate([start_row, row])) for row in rows]
    rows = [row for row in rows if len(row) > 1]
    if len(rows) < 2:
        raise DataError(
            f"Only {counted(len(rows), 'block')} of {max_length} tokens can be made of "
            f"{counted(len(texts), 'text')} with {counted(len(tokens), 'token')}; at least "
            "2 blocks are needed in every split: lower --max-length or add text."
        )
    note = f"Packed {counted(len(texts), 'text')} into {len(rows)} blocks of {max_length} tokens."
    return Encoded(examples=tuple(map(_example, rows)), labels=tuple(rows), notes=(note,))


def _encode_completions(
    prompts: Sequence[str], completions: Sequence[str], tokenizer: Any, max_length: int, *, is_chat: bool
) -> Encoded:
    """Make an example of each prompt with its completion; labels are -100 at what is not learned.

    With a chat template the prompt becomes the user's message. Without one the completion follows the prompt,
    after a line break if neither has white space there, and the end-of-text token follows the completion.
    """
    if is_chat and not tokenizer.chat_template:
        raise DataError(
            "The rows are chats, but the tokenizer of the base model has no chat template; use an instruct "
            "model, or rows with a prompt and a completion."
        )
    encode_pairs = partial(_encode_chats, is_chat=is_chat) if tokenizer.chat_template else _encode_plain
    fitted: list[_Fitted] = []
    n_last_alone = longest = 0
    start, n_rows = _start_of(tokenizer), len(prompts)
    for chunk in chunks(prompts):
        for prompt, completion, prompt_labels in encode_pairs(prompts[chunk], completions[chunk], tokenizer):
            longest = max(longest, len(prompt) + len(completion))
            n_last_alone += prompt_labels is None
            labels = prompt_labels or [IGNORED] * len(prompt)
            fitted.append(_fit(prompt, completion, labels, start=start, max_length=max_length))
    n_cut = sum(row.is_cut for row in fitted)
    dropped = tuple(i for i, row in enumerate(fitted) if row.is_dropped)
    notes = []
    if n_cut or dropped:
        notes.append(
            f"Prompts that lost their beginning: {n_cut} of {n_rows}. Rows dropped because their completion "
            f"would be cut: {len(dropped)}. The limit is {max_length} tokens; the longest row has {longest}."
        )
    if n_last_alone:
        notes.append(
            f"In {n_last_alone} of {n_rows} chats only the last answer is learned: the chat template writes "
            "earlier answers differently, or the tokenizer does not report where its tokens are."
        )
    return Encoded(
        examples=tuple(_example(row.ids) for row in fitted),
        labels=tuple(row.labels for row in fitted),
        notes=tuple(notes),
        refusal=all_dropped(n_rows, longest, max_length) if len(dropped) == n_rows else "",
        dropped=dropped,
    )


class _Fitted(NamedTuple):
    ids: Row
    labels: Row
    is_cut: bool
    is_dropped: bool


def _fit(
    prompt: list[int], completion: list[int], prompt_labels: list[int], *, start: list[int], max_length: int
) -> _Fitted:
    """Join a prompt and its completion to at most `max_length` tokens.

    The prompt loses its beginning, but for the token with which texts begin, down to half of the length. If
    the completion does not fit then, nothing is learned.
    """
    n_completion = min(len(completion), max(max_length - len(prompt), max_length // 2))
    n_prompt = min(len(prompt), max_length - n_completion)
    is_cut, is_dropped = n_prompt < len(prompt), n_completion < len(completion)
    labels = [IGNORED] * max_length if is_dropped else [*prompt_labels[-n_prompt:], *completion]
    if is_cut:
        kept = start if n_prompt > len(start) and prompt[: len(start)] == start else []
        prompt = [*kept, *prompt[len(prompt) - n_prompt + len(kept) :]]
    return _Fitted(as_row([*prompt, *completion][:max_length]), as_row(labels), is_cut, is_dropped)


def _start_of(tokenizer: Any) -> list[int]:
    """Return the token with which the tokenizer begins every text; [] if it adds none."""
    start = getattr(tokenizer, "bos_token_id", None)
    return [start] if start is not None and tokenizer("")["input_ids"][:1] == [start] else []


def _example(row: Row) -> Example:
    return {"input_ids": row, "attention_mask": filled(1, len(row))}


def _encode_chats(
    prompts: Sequence[str], completions: Sequence[str], tokenizer: Any, *, is_chat: bool
) -> list[_Labelled]:
    """Tokenize each row as the chat template writes it, split where the answer begins."""
    pairs: list[tuple[str, str]] = []
    earlier: list[list[tuple[int, int]] | None] = []
    end = _added_end(tokenizer)
    for prompt, completion in zip(prompts, completions, strict=True):
        turns, tools = chat_of(prompt) if is_chat else ([{"role": "user", "content": prompt}], None)
        answer = {"role": "assistant", "content": completion}
        try:
            pair = split_at_answer(tokenizer, turns, answer, tools=tools)
            if pair is not None:
                earlier.append(earlier_answers(tokenizer, turns, pair[0], tools=tools))
        except TEMPLATE_FAULTS as error:
            roles = ", ".join(str(turn["role"]) for turn in (*turns, answer))
            raise DataError(
                f"The chat template of the base model refuses the row {shortened(prompt, 60)} with the roles "
                f"{shortened(roles, 60)} ({reason_of(error)}); correct or leave out rows of its kind, or use "
                "another base model."
            ) from error
        if pair is None:
            has_system = any(turn["role"] == "system" for turn in turns)
            remedy = "put the text of system messages into the user's, or " if has_system else ""
            raise DataError(
                "The chat template of the base model writes a prompt differently once it is answered, so "
                f"that the completion cannot be separated from it; {remedy}use rows with a plain text, or "
                "another base model."
            )
        pairs.append(pair)
    texts, answers = zip(*pairs, strict=True)
    ids = token_pairs(tokenizer, texts, answers, add_special_tokens=False)
    return [
        (prompt, [*completion, *end], _prompt_labels(tokenizer, text, spans, prompt=prompt, end=end))
        for (prompt, completion), text, spans in zip(ids, texts, earlier, strict=True)
    ]


def _prompt_labels(
    tokenizer: Any, text: str, spans: list[tuple[int, int]] | None, *, prompt: list[int], end: list[int]
) -> list[int] | None:
    """Label earlier answers and their ends in a prompt; None if they were not found."""
    if spans is None or (spans and not tokenizer.is_fast):
        return None
    labels = [IGNORED] * len(prompt)
    if not spans:
        return labels
    tokens = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    n_passed = 0
    for i, (first_character, past_character) in enumerate(tokens["offset_mapping"]):
        while n_passed < len(spans) and first_character >= spans[n_passed][1]:
            if end == prompt[i : i + 1]:
                labels[i] = prompt[i]
            n_passed += 1
        if n_passed < len(spans) and past_character > spans[n_passed][0]:
            labels[i] = prompt[i]
    labels[-1] = IGNORED  # `last_answer` would take it for a part of the completion
    return labels


def _encode_plain(prompts: Sequence[str], completions: Sequence[str], tokenizer: Any) -> list[_Labelled]:
    """Tokenize each prompt with the line break after it, and the completion with an end-of-text token."""
    starts = [
        prompt if prompt[-1:].isspace() or completion[:1].isspace() else prompt + "\n"
        for prompt, completion in zip(prompts, completions, strict=True)
    ]
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    pairs = token_pairs(tokenizer, starts, completions, add_special_tokens=True)
    return [(prompt, [*completion, *end], [IGNORED] * len(prompt)) for prompt, completion in pairs]


def _added_end(tokenizer: Any) -> list[int]:
    """Choose a token to end answers with; [] if the chat template writes something after an answer.

    It is the special token that begins the next turn, as GLM's models end an answer, else the end of texts.
    """
    if end_of_answer(tokenizer) != "":
        return []
    end = min(_ends_of_turns(tokenizer), default=tokenizer.eos_token_id)
    return [] if end is None else [end]


def _generate(model: nn.Module, batch: Batch, tokenizer: Any, max_new_tokens: int) -> list[str]:
    """Continue the prompts of a batch greedily; a prompt is what precedes the last answer."""
    # A dropped row, if it is read at all, has no label: its prompt is its first token.
    prompts = [
        ids[: max(1, last_answer(labels)[0])].tolist()
        for ids, labels in zip(batch["input_ids"], batch["labels"].tolist(), strict=True)
    ]
    pad_id = int(tokenizer.pad_token_id or 0)
    device, longest = batch["input_ids"].device, max(map(len, prompts))
    n_positions = getattr(cast(Any, model).config.get_text_config(), "max_position_embeddings", None)
    n_free = n_positions - longest if isinstance(n_positions, int) else max_new_tokens
    # Reversed twice: prompts are padded on the left, since they are continued on the right.
    ids = pad([prompt[::-1] for prompt in prompts], pad_id).flip(1)
    mask = pad([[1] * len(prompt) for prompt in prompts], 0).flip(1)
    return generate_greedily(
        model,
        tokenizer,
        {"input_ids": ids.to(device), "attention_mask": mask.to(device)},
        n_skipped=longest,
        max_new_tokens=max(1, min(max_new_tokens, n_free)),
        pad_token_id=pad_id,
        eos_token_id=_end_ids(model, tokenizer),
    )


def _end_ids(model: nn.Module, tokenizer: Any) -> list[int] | None:
    """Collect the tokens that end a text, from tokenizer, generation config and chat template.

    The template of Qwen's base models ends turns with another token than the one that ends their texts.
    """
    of_model = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    ends = {tokenizer.eos_token_id, *(of_model if isinstance(of_model, list | tuple) else [of_model])}
    return sorted((ends | _ends_of_turns(tokenizer)) - {None}) or None


def _ends_of_turns(tokenizer: Any) -> set[int]:
    """Find the special token right after an answer, else at the start of the next turn."""
    text = end_of_answer(tokenizer) or start_of_next_turn(tokenizer)
    end = tokenizer(text, add_special_tokens=False)["input_ids"][:1]
    added = getattr(tokenizer, "added_tokens_decoder", {})
    special = {index for index, token in added.items() if token.special}
    # The token with which texts begin does not end the turn before it.
    return set(end) & (special | set(tokenizer.all_special_ids)) - {tokenizer.bos_token_id}


PLUGIN = WritingTask(
    name="text-generation",
    auto_class="AutoModelForCausalLM",
    peft_task_type="CAUSAL_LM",
    kinds=(*PROMPTED_KINDS, "documents"),
    label_space=LabelSpace(kind="documents"),
    model_type=TextModel(
        encode=_encode,
        features=lambda _, batch: without_labels(batch),
        # At each position (B, T) the label of the next token; -100 at the last position.
        targets=lambda labels: nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORED),
        generate=_generate,
    ),
)

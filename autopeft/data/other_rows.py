"""Tables without a label column: what such columns usually hold, and which reader takes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from autopeft.data.choices import read_choices
from autopeft.data.language import read_language
from autopeft.data.rows import ReadRows
from autopeft.data.tokens import read_tokens


@dataclass(frozen=True)
class OtherRows:
    """Rows without a label: what they are in words, what reads them, and sets of usual column names."""

    words: str
    read_rows: ReadRows
    columns: tuple[frozenset[str], ...]


def _rows(words: str, read_rows: ReadRows, *columns: str) -> OtherRows:
    return OtherRows(words, read_rows, tuple(frozenset(names.split("+")) for names in columns))


OTHER_ROWS = (
    _rows("chats", read_language, "messages", "conversations"),
    _rows(
        "prompts with completions",
        read_language,
        *("prompt+completion", "prompt+response", "instruction+output", "instruction+response"),
    ),
    _rows("tokens with tags", read_tokens, "tokens+ner_tags", "tokens+tags", "tokens+pos_tags"),
    _rows("questions with choices", read_choices, "question+choices", "question+options"),
)


def other_rows_of(names: Sequence[str]) -> OtherRows | None:
    """What a table with these columns usually holds; None where the columns are not usual ones.

    Example:
        >>> other_rows_of(["id", "Messages"]).words
        'chats'
    """
    lower = {name.strip().lower() for name in names}
    return next((rows for rows in OTHER_ROWS if any(usual <= lower for usual in rows.columns)), None)

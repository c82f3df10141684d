"""A dataset: its columns, its labels and four splits that share no example.

Inside the folder each file imports only from those before it:
dataset → files, chats → sources, columns → labels, texts →
language, images, cutting → splits.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autopeft.data.chats import chat_of
    from autopeft.data.dataset import LabelledData, ReadRows, Split, UncutRows
    from autopeft.data.images import ImageFile, read_images
    from autopeft.data.language import read_language
    from autopeft.data.splits import load, load_in_memory
    from autopeft.data.texts import read_texts, read_tokens

# Imported one after the other until one has the name: pandas, datasets and scikit-learn take a second, which
# commands that read no rows need not wait for.
_MODULES = ("dataset", "chats", "texts", "language", "images", "splits")


def __getattr__(name: str) -> Any:
    if not name.startswith("_"):
        for module in _MODULES:
            members = vars(importlib.import_module(f"{__name__}.{module}"))
            if name in members:
                return members[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

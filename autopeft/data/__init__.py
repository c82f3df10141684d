"""A dataset: its columns, its labels and four splits that share no example.

Inside the folder each file imports only from those before it:
dataset → formats, chats, cells → sources → columns → labels →
tokens, language, images, choices, cutting → splits → frames.
"""

from __future__ import annotations

from autopeft.data.chats import chat_of
from autopeft.data.choices import read_choices
from autopeft.data.dataset import LabelledData, ReadRows, Split, UncutRows
from autopeft.data.frames import load_in_memory
from autopeft.data.images import ImageFile, read_images
from autopeft.data.labels import NoLabelColumnError, read_texts
from autopeft.data.language import read_language
from autopeft.data.splits import load, other_rows_of
from autopeft.data.tokens import read_tokens

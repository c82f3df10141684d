"""Loads a dataset: its columns, its labels and four splits that share no example.

Inside the folder each file imports only from those before it:
rows → sources → columns → labels → tokens, language, images, choices → cutting → loading, general.
"""

from __future__ import annotations

from autopeft.data.general import GeneralRows, read_general
from autopeft.data.images import ImageFile
from autopeft.data.loading import FORMS, load
from autopeft.data.rows import LabelledData, Split
from autopeft.data.sources import SAMPLE, first_rows

__all__ = [
    "FORMS",
    "SAMPLE",
    "GeneralRows",
    "ImageFile",
    "LabelledData",
    "Split",
    "first_rows",
    "load",
    "read_general",
]

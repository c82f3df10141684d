"""Export formats, one file each; `recipes` has those for other trainers, `_shared` what several use."""

from __future__ import annotations

from autopeft.exports._shared.adapter import lacking_weights, n_trained_labels, write_adapter
from autopeft.exports._shared.hub import name_base, write_loading_files
from autopeft.exports._shared.reading_back import (
    PEFT,
    READERS,
    load_as_served,
    load_in_peft,
    readers_of,
)
from autopeft.exports._shared.weights import read_all_weights, read_weights
from autopeft.exports.recipes import RECIPES

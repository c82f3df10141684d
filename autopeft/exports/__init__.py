"""Formats that others read, one file each; what several of them share lies in `parts`."""

from __future__ import annotations

from autopeft.exports.parts.adapter import lacking_weights, n_trained_labels, write_adapter
from autopeft.exports.parts.folder import fresh_folder, refuse_files
from autopeft.exports.parts.weights import read_all_weights, read_weights

__all__ = [
    "fresh_folder",
    "lacking_weights",
    "n_trained_labels",
    "read_all_weights",
    "read_weights",
    "refuse_files",
    "write_adapter",
]

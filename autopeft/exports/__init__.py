"""Formats that others read, one file each."""

from __future__ import annotations

from autopeft.exports._folder import fresh_folder, refuse_files
from autopeft.exports._source import adapts_something
from autopeft.exports._weights import read_weights

__all__ = ["adapts_something", "fresh_folder", "read_weights", "refuse_files"]

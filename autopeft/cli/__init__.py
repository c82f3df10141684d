"""The command line: the only room that prints and exits."""

from __future__ import annotations

from autopeft.cli.app import main

__all__ = ["main"]

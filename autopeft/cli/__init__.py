"""The command line: the only room that prints and exits.

Inside the folder each file imports only from those before it:
usage, known, imports, printing, segments, threads → options, signals → exit_codes, tables, previews,
progress, counts, estimates, checks → analysis, lists → verify_push, sizing → app.
"""

from __future__ import annotations

from autopeft.cli.app import main

__all__ = ["main"]

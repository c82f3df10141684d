"""The command line: the only room that prints and exits.

Inside the folder each file imports only from those before it:
options, told, tables, display, described → counts → heat → app.
"""

from __future__ import annotations

from autopeft.cli.app import main

__all__ = ["main"]

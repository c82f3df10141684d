"""The command line: the only room that prints and exits.

Inside the folder each file imports only from those before it: exit_codes, imports, printing, usage → counts,
estimates, options, previews, progress → lists, sizing, tables, verify_push → app.
"""

from __future__ import annotations

from autopeft.cli.app import main

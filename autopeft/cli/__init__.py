"""The command line: the only room that prints and exits.

Inside the folder each file imports only from those before it: environment, exit_codes, options, printing →
files, results, sizes → facts → app.
"""

from __future__ import annotations

from autopeft.cli.app import main

"""The command line: the only package that prints and exits.

Inside the folder each file imports only from those before it: environment, options, printing → exit_codes →
files, info, results, sizes → facts → app.
"""

from __future__ import annotations

from autopeft.cli.app import main

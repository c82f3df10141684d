"""`autopeft worker`: what a search may ask of it. torch is loaded by its second process alone."""

from __future__ import annotations

import importlib.util

from autopeft.errors import SpecError
from autopeft.executors.parts import MEASURING, Database, database_url, serve

# What a search may name beside its measurements: the class that prepares them in a worker.
PREPARING = "autopeft.pipeline.working:WorkerBench"


def serve_search() -> int:
    """Measure for a search behind DATABASE_URL until it ends; returns the number of measurements."""
    url = database_url()
    if importlib.util.find_spec("psycopg") is None:
        raise SpecError(
            'A worker needs the package psycopg; install it with: pip install "autopeft[postgresql]".'
        )
    return serve(Database(url), {*MEASURING, PREPARING})

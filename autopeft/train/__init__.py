"""The one training loop: a plan and a fidelity become a measurement.

Inside the folder each file imports only from those before it:
splits, course → rates → pausing → loop → bench.
"""

from __future__ import annotations

from autopeft.train.bench import Bench
from autopeft.train.course import Course, full_course, full_run_steps, rung_course
from autopeft.train.rates import SCHEDULE
from autopeft.train.splits import EncodedSplit, encode_split, encode_splits, epoch_batches

__all__ = [
    "SCHEDULE",
    "Bench",
    "Course",
    "EncodedSplit",
    "encode_split",
    "encode_splits",
    "epoch_batches",
    "full_course",
    "full_run_steps",
    "rung_course",
]

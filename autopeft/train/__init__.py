"""The training loop: a plan and a fidelity become a measurement.

`docs/code.md` lists the functions from the command line to one step.

Inside the folder each file imports only from those before it:
curve, rates → lengths, encoding → compute, pausing → loop, dropout → bench → choosing, pace.
"""

from __future__ import annotations

from autopeft.train.bench import WRITTEN_TEXTS, Bench
from autopeft.train.choosing import check_limit, choose_compute, kept_bytes, memory_advice
from autopeft.train.compute import Compute, padded_tokens
from autopeft.train.encoding import (
    EncodedSplit,
    OverflowInFloat16Error,
    count_tokens,
    encode_split,
    encode_splits,
    max_length_of,
    train_rows,
    uncut_lengths,
)
from autopeft.train.loop import watched
from autopeft.train.pace import TYPICAL_STEPS, Pace, pace_of
from autopeft.train.pausing import kept_step
from autopeft.train.rates import (
    MOVE,
    MOVE_BELOW,
    MOVE_OF_NUMBERS,
    SCHEDULE,
    WARMUP_SHARE,
    branch_step,
    full_run_steps,
    head_move,
    warmup_steps,
)

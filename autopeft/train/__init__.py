"""The only training loop: a plan and a fidelity become a measurement.

From the command line to one step of a full run:

    cli/app.py             search_command      settings from flags, environment and file
    commands/search.py     run_search          loads data and model, makes the bench and the runs
    engine/search.py       search              decides which plan is measured at which fidelity
    engine/judge.py        train_in_full       the finalists, as many as the limits pay
    engine/runs.py         measure_all         passes on what the run has not measured yet, and records it
    executors/serial.py    submit              calls the function that it gets, which is
    train/bench.py         measure             starts anew in less memory where memory runs out
    train/bench.py         _measure_in_memory  attaches the plan, trains, evaluates, detaches
    train/loop.py          train               all steps of a run; pauses and resumes (pausing)
    train/loop.py          optimizer_step      forward, backward, AdamW

Inside the folder each file imports only from those before it:
rates, rows → encoding → caches → compute → pausing → loop → bench → choosing, pace.
"""

from __future__ import annotations

from autopeft.train.bench import Bench
from autopeft.train.choosing import check_limit, choose_compute, kept_bytes, less_memory
from autopeft.train.compute import Compute, padded_tokens
from autopeft.train.encoding import (
    EncodedSplit,
    count_tokens,
    encode_ahead,
    encode_split,
    encode_splits,
    limited_by,
    max_length_of,
    train_rows,
    uncut_lengths,
)
from autopeft.train.loop import watched
from autopeft.train.pace import TYPICAL_STEPS, Pace, pace_of
from autopeft.train.pausing import kept_step
from autopeft.train.rates import (
    SCHEDULE,
    WARMUP_SHARE,
    branch_step,
    full_run_steps,
    input_rms,
    user_head_rates,
    warmup_steps,
)

"""The only training loop: a plan and a fidelity become a measurement.

From the command line to one step of a full run:

    cli/app.py             search_command      settings from flags, environment and file
    commands/search.py     run_search          loads data and model, makes the bench and the runs
    engine/search.py       search              decides which plan is measured at which fidelity
    engine/judge.py        train_in_full       trains the finalists that time and cost allow
    engine/runs.py         measure_all         submits each plan not measured yet, and records the result
    executors/serial.py    submit              calls the submitted function, `Bench.measure`
    train/bench.py         measure             tries again in less memory if memory runs out
    train/bench.py         _measure_in_memory  attaches the plan, trains, evaluates, detaches
    train/loop.py          train               takes all steps of a run; saves and restores its state
    train/loop.py          optimizer_step      forward, backward, AdamW

Inside the folder each file imports only from those before it:
rates, rows → encoding → caches → compute → pausing → loop → bench → choosing, pace.
"""

from __future__ import annotations

from autopeft.train.bench import WRITTEN_TEXTS, Bench
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

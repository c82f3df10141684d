"""Which shapes do the micro-batches of a training have, and how much of a GPU's free memory do they use?

    python benchmarks/speed/micro_batches.py

Rows of log-normal lengths in the order and the micro-batches of autopeft's training, without a model. First
the distinct shapes (rows, tokens of the longest row), since some attention kernels plan anew for each, and
the padding that lengths rounded up to 64 would add. Then the tokens of a micro-batch by free memory, where a
token keeps 7 MiB for the backward pass, as in a model of 8 B weights in 16 bits.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from autopeft.train.choosing import most_tokens
from autopeft.train.compute import micro_batches, padded_tokens
from autopeft.train.encoding import train_rows

N_ROWS, SPREAD = 20_000, 0.6
TOKEN_BYTES, SHARE_FREE = 7 * 2**20, 0.9


def shapes(mean: int, batch_size: int, n_steps: int, max_tokens: int) -> str:
    """Count the distinct shapes of a training, as they are and rounded up to 64 tokens."""
    drawn = np.random.default_rng(0).lognormal(np.log(mean) - SPREAD**2 / 2, SPREAD, N_ROWS)
    lengths: NDArray[np.int64] = np.maximum(8, drawn).astype(np.int64)
    steps = train_rows(lengths, n_steps=n_steps, batch_size=batch_size, seed=0)
    batches = [batch for step in steps for batch in micro_batches(step, lengths, max_tokens=max_tokens)]
    rounded = -(-lengths // 64) * 64
    found = {(len(batch), int(lengths[list(batch)].max())) for batch in batches}
    in_steps_of_64 = {(len(batch), int(rounded[list(batch)].max())) for batch in batches}
    plain, padded = (sum(padded_tokens(batch, sizes) for batch in batches) for sizes in (lengths, rounded))
    return f"{len(found):6} {len(in_steps_of_64):6} {padded / plain - 1:+8.0%}"


def main() -> None:
    """Print both tables."""
    print("mean tokens  batch  steps  shapes  by 64  padding")
    for mean, batch_size in ((150, 16), (400, 8), (800, 4)):
        for n_steps in (75, 1000):
            print(f"{mean:11} {batch_size:6} {n_steps:6} {shapes(mean, batch_size, n_steps, 4096)}")
    print("\nfree GiB  tokens at a time  GiB kept  of the free")
    for free in (2, 4, 8, 16, 24, 40, 63):
        n_bytes = int(SHARE_FREE * free * 2**30)
        tokens, _ = most_tokens("cuda", TOKEN_BYTES, available=n_bytes, weights=0)
        kept = tokens * TOKEN_BYTES / 2**30
        print(f"{free:8} {tokens:17} {kept:9.1f} {kept / free:11.0%}")


if __name__ == "__main__":
    main()

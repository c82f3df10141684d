"""A vocabulary of a few words, and rows whose words decide the label."""

from __future__ import annotations

import numpy as np

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
TELLING = {0: ("awful", "bad", "dull", "poor"), 1: ("fine", "good", "great", "lovely")}
WORDS = "a an and at day film for food in is it of on one plot staff that the this time was with"
FILLER = tuple(WORDS.split())
VOCABULARY = (*SPECIAL, *TELLING[0], *TELLING[1], *FILLER)
LABEL_NAMES = ("neg", "pos")
CONTEXT = 32  # tokens


def toy_rows(n, seed, *, n_filler=(3, 9)):
    """`n` different texts and their labels, which alternate; three words of each text decide its label."""
    rng = np.random.default_rng(seed)
    texts = {}
    while len(texts) < n:
        label = len(texts) % 2
        words = [*rng.choice(FILLER, size=rng.integers(*n_filler)), *rng.choice(TELLING[label], size=3)]
        texts[" ".join(rng.permutation(words))] = label
    return list(texts), list(texts.values())

"""Cuts of train with many labels, by the rule in plain loops."""

from __future__ import annotations

import numpy as np
import pytest

from autopeft.data.cutting import Cutter
from autopeft.data.dataset import Row


def rows_of(labels):
    return [Row((f"sentence {i}",), label) for i, label in enumerate(labels)]


def names_of(label):
    return set(label) if isinstance(label, tuple) else {label}


def with_labels(labels, out, spread, *, seed):
    """The rule: for each missing label, a row with it replaces one of labels that the cut has more often."""
    order = np.random.default_rng(seed).permutation(len(labels)).tolist()

    def how_often(name, *, is_out):
        return sum(name in names_of(label) for i, label in enumerate(labels) if (i in out) == is_out)

    def rarest(i, *, is_out):
        return min((how_often(name, is_out=is_out) for name in names_of(labels[i])), default=None)

    lacked = [name for name in sorted(spread) if not how_often(name, is_out=True)]
    for name in lacked:
        if how_often(name, is_out=True):
            continue
        comes = [i for i in order if i not in out and name in names_of(labels[i])]
        comes = [i for i in comes if rarest(i, is_out=False) > 1]
        counts = {i: rarest(i, is_out=True) for i in order if i in out}
        goes = {i: n or 0 for i, n in counts.items() if n is None or n > 1}
        if comes and goes:
            most = max(goes.values())
            out = out - {next(i for i, n in goes.items() if n == most)} | {comes[0]}
    return out


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("seed", range(8))
def test_a_cut_gets_the_labels_that_it_lacks_by_the_rule(seed, several):
    generator = np.random.default_rng(seed)
    n_rows, n_labels = int(generator.integers(6, 40)), int(generator.integers(2, 9))
    names = "abcdefgh"[:n_labels]
    weights = generator.dirichlet([0.6] * n_labels)
    labels = generator.choice(list(names), n_rows, p=weights).tolist()
    if several:
        more = [generator.choice(list(names), generator.integers(0, 3), p=weights).tolist() for _ in labels]
        labels = [
            tuple(dict.fromkeys([label, *others][i % 3 == 0 :]))
            for i, (label, others) in enumerate(zip(labels, more, strict=True))
        ]
    out = set(generator.permutation(n_rows)[: n_rows // 3].tolist())
    cutter = Cutter(has_classes=True, seed=seed)
    swapped = cutter._with_labels(rows_of(labels), out, frozenset(names))
    assert swapped == with_labels(labels, out, set(names), seed=seed)

"""No absurd input of any kind brings anything but an error of our own."""

from __future__ import annotations

import random

import fuzzing
import pytest

from autopeft.errors import SpecError


@pytest.mark.parametrize("n_inputs", [10, pytest.param(300, marks=pytest.mark.nightly)])
def test_an_absurd_input_brings_an_error_of_our_own_only(run_copy, data_dir, tmp_path, n_inputs):
    readers = fuzzing.Readers(tmp_path, run=run_copy, data=data_dir)
    faults = {
        f"{kind}-{i}": fuzzing.fault_of(read, random.Random(f"{kind}-{i}"))
        for kind, read in readers.kinds().items()
        for i in range(n_inputs)
    }
    assert {name: fault for name, fault in faults.items() if fault} == {}


def test_an_absurdly_long_value_is_not_repeated_in_full():
    message = SpecError(f"the value is {'9' * 5000} and too large; lower it")
    assert str(message) == f"the value is {'9' * 100}… and too large; lower it"

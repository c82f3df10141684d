"""Free memory of a device."""

from __future__ import annotations

import os

import torch

from autopeft.model import free_bytes


def test_free_memory_of_the_machine_is_part_of_it_and_in_bytes():
    seen = free_bytes(torch.device("cpu"))
    assert 2**26 < seen <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")

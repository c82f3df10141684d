"""What a training step will take, told before it runs and without weights.

Inside the folder each file imports only from those before it:
living_bytes, few_bits, fake → replay.
"""

from __future__ import annotations

from autopeft.estimate.fake import StandInValues
from autopeft.estimate.few_bits import quantise_maps
from autopeft.estimate.living_bytes import LivingBytes
from autopeft.estimate.replay import StepMemory, TrainingStep, measure, replay, without_weights

__all__ = [
    "LivingBytes",
    "StandInValues",
    "StepMemory",
    "TrainingStep",
    "measure",
    "quantise_maps",
    "replay",
    "without_weights",
]

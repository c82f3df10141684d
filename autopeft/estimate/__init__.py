"""Predicts the memory and time of a training step before it runs and without weights.

A step is replayed on fake tensors (fake_tensors, replay) while the storages that are alive are counted
(memory_tracker). The model is built from its config without weights, with a few of its layers if they are
equal (trained_part, traced_model). Several steps show what fits into a memory (answers).

Inside the folder each file imports only from those before it: rates → fake_tensors → memory_tracker →
measured_rates, replay → trained_part → traced_model → answers.
"""

from __future__ import annotations

from autopeft.estimate.answers import Limits, Step, StepAnswer, StepRequest, answer
from autopeft.estimate.fake_tensors import StandInValues, quantize_linear_layers
from autopeft.estimate.measured_rates import measure_rates
from autopeft.estimate.rates import CARDS, Rates, rates_of
from autopeft.estimate.replay import Replay, TrainingStep, measure, without_weights
from autopeft.estimate.traced_model import Description, count_part, describe
from autopeft.estimate.trained_part import BuiltBase, Setup, TrainedPart, build_base, by_name

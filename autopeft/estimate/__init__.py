"""What a training step will take, predicted before it runs and without weights.

Inside the folder each file imports only from those before it: rates, known_results → fake →
living_bytes → probing, replay → scaling → trainees → subjects, fitting → answers.
"""

from __future__ import annotations

from autopeft.estimate.answers import Limits, Step, StepAnswer, StepRequest, UntoldStepError, answer
from autopeft.estimate.fake import StandInArrays, StandInValues, quantise_maps
from autopeft.estimate.fitting import Memory, in_parts, longest_row, most_rows
from autopeft.estimate.known_results import SLOW_KERNELS
from autopeft.estimate.living_bytes import LivingBytes
from autopeft.estimate.probing import probe
from autopeft.estimate.rates import CARDS, Rates, rates_of
from autopeft.estimate.replay import Replay, TrainingStep, measure, replay, without_weights
from autopeft.estimate.scaling import MemoryModel
from autopeft.estimate.subjects import TraineeOnModel, describe
from autopeft.estimate.trainees import Setup, Trainee, by_name

"""Trials that your own trainer runs: the study that gives them out, and their folders."""

from autopeft.trials.study import Study

"""autopeft: what to adapt, with which PEFT method and rank, under a budget, and what it is worth."""

__version__ = "0.1.0"

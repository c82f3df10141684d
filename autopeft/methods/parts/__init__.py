"""What methods are made of: the record, refusals, patterns of sites, configs by group, and a tuner.

Inside the folder each file imports only from those before it: record, fits, patterns,
bias_tuner → configs.
"""

from autopeft.methods.parts.configs import alphas_of, doublings, grouped, lycoris_config, one_config_per_rank
from autopeft.methods.parts.fits import only_linear, only_maps, only_plain_linear
from autopeft.methods.parts.patterns import by_inner_pattern, by_pattern, pattern_of, sites_pattern
from autopeft.methods.parts.record import COMPARISON, WIDTH_EXPONENT, PeftMethod

__all__ = [
    "COMPARISON",
    "WIDTH_EXPONENT",
    "PeftMethod",
    "alphas_of",
    "by_inner_pattern",
    "by_pattern",
    "doublings",
    "grouped",
    "lycoris_config",
    "one_config_per_rank",
    "only_linear",
    "only_maps",
    "only_plain_linear",
    "pattern_of",
    "sites_pattern",
]

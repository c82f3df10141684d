"""What methods are made of: the record, refusals, patterns of sites, configs by group, and tuners.

Inside the folder each file imports only from those before it:
record, fits, virtual_tokens, patterns → configs, tuners, bottleneck_outputs → bias_tuner,
bottleneck_tuner.
"""

from autopeft.methods.parts.configs import doublings, grouped, lycoris_config, one_config_per_rank, pattern_of
from autopeft.methods.parts.fits import only_linear, only_maps, only_plain_linear
from autopeft.methods.parts.patterns import by_inner_pattern, by_pattern, sites_pattern, whole
from autopeft.methods.parts.record import COMPARISON, PeftMethod, double_scale

__all__ = [
    "COMPARISON",
    "PeftMethod",
    "by_inner_pattern",
    "by_pattern",
    "double_scale",
    "doublings",
    "grouped",
    "lycoris_config",
    "one_config_per_rank",
    "only_linear",
    "only_maps",
    "only_plain_linear",
    "pattern_of",
    "sites_pattern",
    "whole",
]

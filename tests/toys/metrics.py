"""Facts of metrics: shares and others, bounded and not, where more is better and where less is."""

from __future__ import annotations

from autopeft.types import MetricFacts

ACCURACY = MetricFacts(name="accuracy", greater_is_better=True, is_share=True, score_span=1.0)
ERROR_RATE = MetricFacts(name="error-rate", greater_is_better=False, is_share=True, score_span=1.0)
LOSS = MetricFacts(name="loss", greater_is_better=False, is_share=False)
PEARSON = MetricFacts(name="pearson", greater_is_better=True, is_share=False)

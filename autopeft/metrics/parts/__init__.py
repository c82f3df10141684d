"""What the metrics share: their record, pseudo-values, and functions that several metrics call."""

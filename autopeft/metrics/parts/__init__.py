"""What the metrics share: their record, and the functions that score examples."""

"""What the metrics share: their record, and the functions that score examples.

Inside the folder each file imports only from those before it: label_metric → example_scores.
"""

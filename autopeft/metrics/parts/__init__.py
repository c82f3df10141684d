"""What the metrics share: their record, pseudo-values, and functions that several metrics call.

Inside the folder each file imports only from those before it:
label_metric → pseudo_values, correlations → confusion_cells, f1.
"""

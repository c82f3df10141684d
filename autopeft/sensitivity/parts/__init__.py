"""What the scores share: their record, gradients of weights, and the pass over some batches that feeds them.

Inside the folder each file imports only from those before it:
score, layout, halves → gradients, visit → batches → measure.
"""

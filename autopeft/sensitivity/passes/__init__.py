"""The pass over some batches that feeds every score.

Inside the folder each file imports only from those before it:
labels, layout, cutting, halves → layers → visit → batches, weights → measure.
"""

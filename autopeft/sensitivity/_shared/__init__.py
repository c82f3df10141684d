"""What the scores share: their record, the factor of a norm's weight, and the pass that feeds them.

Inside the folder each file imports only from those before it:
score, layout → visit → measure.
"""

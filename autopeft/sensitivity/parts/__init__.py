"""What the scores share: their record, two reducers, and functions of inputs, gradients and weights.

Inside the folder each file imports only from those before it:
score, sketches, layers → gradients → singular_values.
"""

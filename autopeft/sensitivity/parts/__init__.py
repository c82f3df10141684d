"""What the scores share: their record, two reducers, and functions of inputs and gradients.

Inside the folder each file imports only from those before it: score, sketches → gradients.
"""

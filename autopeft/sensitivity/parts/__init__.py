"""What the scores share: their record, reducers, and functions of inputs and gradients.

Inside the folder each file imports only from those before it:
site_score, seeds, reducers, gradients → singular_values, fisher_terms.
"""

"""What the scores share: the layout of batches, the hooks, and the pass over several batches.

Each file imports only from those before it: norms, layout → gradients → measure.
"""

"""What the scores share: the layout of batches, the hooks, and the pass over several batches.

Inside the folder each file imports only from those before it:
norms, gradients → measure.
"""

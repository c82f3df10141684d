"""What the scores share: the hooks, and the pass over several batches.

Inside the folder each file imports only from those before it:
gradients → measure.
"""

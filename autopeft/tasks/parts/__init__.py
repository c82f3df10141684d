"""What the task types share: two records of tasks, and functions on batches.

Inside the folder each file imports only from those before it:
<<<<<<< HEAD
tokens, batches, targets → token_metrics, labelled → writing.
=======
batches, targets, usual → token_metrics, labelled → writing.
>>>>>>> ccba45b (Derive lengths, batch size and epochs from data and task)
"""

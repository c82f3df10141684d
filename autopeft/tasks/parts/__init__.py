"""What the task types share: two records of tasks, and functions on rows, batches and answers.

Inside the folder each file imports only from those before it:
batches, targets → answers, token_metrics, language_rows, labelled → writing.
"""

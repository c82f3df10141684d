"""What the task types share: two records of tasks, and functions on rows, batches and answers."""

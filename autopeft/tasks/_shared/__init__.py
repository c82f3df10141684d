"""What the task types share: two records of tasks, and functions on batches.

Inside the folder each file imports only from those before it:
chat_templates, tokens, batches, generating, usual → token_losses, token_metrics, labelled → writing.
"""

"""What several formats share: files of an adapter, problems, and what servers read.

Inside the folder each file imports only from those before it: hub, problems, servers, adapter.
"""

"""What several formats share: files of an adapter, problems, reading back.

Inside the folder each file imports only from those before it: hub, problems, servers, adapter → reading_back.
"""

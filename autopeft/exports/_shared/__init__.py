"""What several formats share: weights, adapters, problems, merging, reading back.

Inside the folder each file imports only from those before it:
hub, weights, problems → adapter, merging → uniform → reading_back.
"""

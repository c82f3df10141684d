"""What several formats share: weights, adapters, problems, merging, recipes, reading back.

Inside the folder each file imports only from those before it:
weights, problems → adapter, merging, recipe → uniform → reading_back.
"""

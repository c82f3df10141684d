"""What several formats share: folders, weights, adapters, problems, merging, recipes, reading back.

Inside the folder each file imports only from those before it:
folder, weights, problems → adapter, merging, recipe → uniform → reading_back.
"""

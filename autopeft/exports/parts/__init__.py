"""What several formats share: folders, weights, tensors by name, problems, merging, recipes.

Inside the folder each file imports only from those before it:
folder, weights, recipe, tensors, problems → adapter, merging, uniform.
"""

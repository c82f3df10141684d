"""Finished adapters: write, refit and load them, and compare what they compute.

Inside the folder each file imports only from those before it: training_notes, refit → best, loading →
same_outputs.
"""

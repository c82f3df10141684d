"""What a run is made of: data and model, settings that are derived, the problem, its state on the disk.

Inside the folder each file imports only from those before it: derive, progress, resources, trackers →
prepare → base_facts, reporting, scoring → state → best, live, trials, workers →
search_problem → refit.
"""

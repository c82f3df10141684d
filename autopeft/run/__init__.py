"""What a run is made of: settings that are derived, data and model, the problem, its state on the disk.

Inside the folder each file imports only from those before it: computing, derived, objects, resume, tracking,
turns → prepare → formulate, scoring, state → allowance, facts, workers → forecast → best.
"""

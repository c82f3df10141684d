"""Experiment trackers, one file each; each needs the extra of its name."""

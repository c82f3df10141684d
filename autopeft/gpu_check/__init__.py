"""The checks of `info --gpu`: what a GPU does, next to what was predicted; start with checks.py."""

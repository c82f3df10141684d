"""PEFT methods, one file each; `PLUGIN` of a file is what `discover` takes.

A new method is one file with one `Method` record of `autopeft.plugins`; `hira.py` is a short one to copy. The
record needs the words for people, the learning rates, and three functions: where the method fits, what it
costs, and its `peft` configs. `methods/_shared/` has ready-made functions for these fields, and the patterns
that name target modules.
"""

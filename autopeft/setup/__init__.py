"""From settings to what a run needs: look at data, model and devices, derive the settings, build the bench.

`build.prepare` has the three steps; `opening.open_run` adds the checks and the search space of a search.

Inside the folder each file imports only from those before it: derive, resources → look → build → feasible,
resuming, scoring, search_facts → workers → opening → search_problem.
"""

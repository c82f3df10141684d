"""Plug-ins for autopeft, one file each: method, score, metric and task."""

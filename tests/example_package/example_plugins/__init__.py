"""Parts for autopeft from outside, one file each: method, score, metric and task."""

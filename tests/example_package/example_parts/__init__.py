"""Parts for autopeft from outside: a method, a score, a task with a metric of its own, a format."""

"""Tiny models, rows and worlds that several tests share; all offline and seeded."""

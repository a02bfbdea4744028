"""Measures what receiving costs, against peers that do the same job in other ways. See ``make bench``."""

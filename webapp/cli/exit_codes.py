"""The exit codes of all commands."""

from __future__ import annotations

DONE = 0
PROBLEM = 1
"""Something needs attention; also whatever was not expected."""
USAGE = 2
"""Usage or settings; click's own code for a wrong usage."""
REFUSED = 3
"""eSMS refuses the account."""
NO_DATABASE = 4
"""The database cannot be reached."""
INTERRUPTED = 130
"""Ctrl-C: what shells report of a program that SIGINT has ended."""

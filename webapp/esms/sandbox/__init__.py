"""A stand-in for eSMS for tests and tours, written from its documents alone: it shares no code with the program."""

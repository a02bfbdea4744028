"""A fortnight of calls to look at, with a receiver and a sandbox: `make demo`."""

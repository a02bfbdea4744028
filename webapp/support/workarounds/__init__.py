"""Works around libraries. Each module names the behaviour of the library that would make it unnecessary."""

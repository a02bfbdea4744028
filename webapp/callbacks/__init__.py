"""eSMS tells us: a callback becomes a durable report before it is answered."""

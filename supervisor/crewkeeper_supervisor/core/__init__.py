"""The pure core: events in, commands out. No clock, randomness, I/O or log."""

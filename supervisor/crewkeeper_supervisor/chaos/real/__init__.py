"""Real: scenarios played by real processes on loopback."""

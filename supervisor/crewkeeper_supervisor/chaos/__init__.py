"""Chaos: the production core in a simulated world of agents, bus and faults, and what must hold there."""

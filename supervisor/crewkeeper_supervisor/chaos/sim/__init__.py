"""Sim: scenarios played in the simulated world around the production core."""

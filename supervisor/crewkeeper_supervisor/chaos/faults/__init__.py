"""Faults: one module for each family, and the registry that knows them all."""

"""Benchmarks: ratios measured in one run. Absolute figures depend on the machine; ratios travel."""

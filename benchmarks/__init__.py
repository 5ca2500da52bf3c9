"""Benchmarks: ratios measured in one run. Absolute figures depend on the machine; ratios travel."""

import os

# A server that this shell names is somebody's: what is measured, and loaded, are servers that were started for it.
os.environ.pop("CREWKEEPER_NATS_URL", None)

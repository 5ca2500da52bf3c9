"""What the gate decides with: policy, arguments, prices, the registry of tools; no clock, no I/O."""

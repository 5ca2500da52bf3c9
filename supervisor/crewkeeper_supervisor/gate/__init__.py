"""What the gate decides with: policy, schemas, prices, the registry of tools; no clock, no I/O."""

"""Plan: scenario files: their format, how they are read, and their JSON Schema; nothing is run here."""

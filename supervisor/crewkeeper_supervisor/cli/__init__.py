"""The `supervisor` command line."""

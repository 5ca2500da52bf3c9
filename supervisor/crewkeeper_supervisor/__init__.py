"""The supervisor: a pure core, a shell around it, views, and a command line."""

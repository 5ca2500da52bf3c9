"""What several test modules need: servers, journals, conditions to wait for."""

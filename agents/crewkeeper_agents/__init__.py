"""What an agent process runs: Agent, runtime, scripted agents."""

"""What outlives a run of the daemon."""

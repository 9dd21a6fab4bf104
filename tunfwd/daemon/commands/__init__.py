"""What a person asks of the daemon, by the control socket."""

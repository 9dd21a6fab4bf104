"""The process that the daemon is: as whom it runs, what it may still do, and what it logs."""

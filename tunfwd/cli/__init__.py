"""The tunfwd command."""

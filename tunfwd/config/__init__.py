"""The configuration file: what it may say, and where it is."""

"""What holds for all tests: hypothesis has no deadline, as a loaded machine is slow for its own reasons."""

from hypothesis import settings

settings.register_profile("tunfwd", deadline=None)
settings.load_profile("tunfwd")

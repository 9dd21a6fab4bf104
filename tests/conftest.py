"""What holds for all tests: hypothesis measures no time, as a loaded machine is slow for reasons of its own."""

from hypothesis import settings

settings.register_profile("tunfwd", deadline=None)
settings.load_profile("tunfwd")

"""What holds for all tests.

hypothesis has no deadline, as a loaded machine is slow for its own reasons. No daemon that a test starts
knows a public node: nothing is ever sent to them.
"""

import os

from hypothesis import settings

settings.register_profile("tunfwd", deadline=None)
settings.load_profile("tunfwd")

os.environ["TUNFWD_PUBLIC_NODES"] = "0"

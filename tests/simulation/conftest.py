import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # so that tests find linksim.py


def pytest_addoption(parser):
    parser.addoption(
        "--long", action="store_true", help="run the simulations in full: minutes instead of seconds"
    )

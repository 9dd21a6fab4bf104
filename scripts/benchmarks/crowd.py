"""Be many people's daemons at once, friends of one that is measured, or nobody's, with nothing to do.

    python -m scripts.benchmarks.crowd FOLDER COUNT BOOTSTRAP [KEY]

Prints their Tox addresses, and ends with its input. They have neither device nor control socket
(tests/daemon/living.py).
"""

import json
import sys
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import trio

from tests.daemon.living import Living
from tunfwd.tox.client import Client
from tunfwd.tox.handler import Handler
from tunfwd.tox.settings import Settings, nodes


class Person(Living):
    """One of them."""

    bootstrap: str

    def _start(self, handler: Handler) -> Client:
        settings = Settings(
            savedata=self.state.identity(),
            name=self.name,
            local_discovery=False,
            bootstrap=nodes([self.bootstrap]),
        )
        return self._stack.enter_context(Client(settings, handler))


async def main(folder: str, count: str, bootstrap: str, *keys: str) -> None:
    """Be so many, until the input ends."""
    Person.bootstrap = bootstrap
    async with AsyncExitStack() as stack:
        people = []
        for number in range(int(count)):
            person = await stack.enter_async_context(Person.running(Path(folder), f"person{number}"))
            for key in keys:
                person.contacts.added(person.client.friends.add_key(bytes.fromhex(key)), "subject")
            people.append(person)
        print(json.dumps([person.address for person in people]), flush=True)
        await trio.to_thread.run_sync(sys.stdin.read)


if __name__ == "__main__":
    trio.run(partial(main, *sys.argv[1:]))

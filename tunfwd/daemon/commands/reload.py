"""Reads the configuration again and has the running daemon go by it: `tunfwd reload`, SIGHUP.

A file that is wrong changes nothing. What is accepted, and what runs, stays as it is: rules decide about
what is offered from then on, and about what nobody has decided on yet.
"""

import logging
from collections.abc import Callable
from functools import partial
from typing import Final

import trio

from tunfwd.common.errors import ConfigurationError, UserError
from tunfwd.config.changes import compare
from tunfwd.config.document import Config
from tunfwd.config.remarks import public_range
from tunfwd.control import api
from tunfwd.control.dispatch import Dispatcher
from tunfwd.daemon.commands.declared import Declared
from tunfwd.daemon.commands.nodes import NodeCommands
from tunfwd.daemon.commands.trace import Following
from tunfwd.daemon.contacts.offers import Policy
from tunfwd.daemon.contacts.tracker import AutoAccept
from tunfwd.daemon.contacts.whom import for_nobody
from tunfwd.daemon.process.logs import set_level
from tunfwd.daemon.storage.nodes import NodeList
from tunfwd.daemon.storage.state import State
from tunfwd.daemon.wiring import Daemon
from tunfwd.events import event
from tunfwd.faults import note

LATER: Final = "changed, and takes effect when the daemon is started again"

log = logging.getLogger(__name__)


class Reloading:
    """The configuration in force, and how it gives way to a newer one."""

    def __init__(
        self,
        config: Config,
        read: Callable[[], Config],
        daemon: Daemon,
        state: State,
        nodes: NodeCommands,
        nickname: str,
        save: Callable[[], None],
    ) -> None:
        """`read` reads it again, from where `config` came; `nickname` is ours where it names none."""
        self._started = self._config = config
        self._read = read
        self._daemon = daemon
        self._state = state
        self._nodes = nodes
        self._nickname = nickname
        self._one_at_a_time = trio.Lock()
        self._declared = Declared(daemon, save)
        self._following = Following(daemon.tap)

    def begin(self) -> None:
        """Have what the configuration declares, at start."""
        self._declared.apply(self._config)
        self._remark(self._config)
        if problem := self._following.begin(self._config.qlog):
            log.warning("%s", problem)

    def _remark(self, config: Config) -> None:
        for remark in self._remarks(config):
            log.warning("%s", remark)

    def _remarks(self, config: Config) -> list[str]:
        """Return what is in effect, and hardly meant."""
        daemon = self._daemon
        nobody = for_nobody(daemon.offers.policy, daemon.datapath.peers, daemon.rooms)
        return [*public_range(config.network.range), *nobody]

    def register(self, dispatcher: Dispatcher) -> None:
        """Have the dispatcher know the command."""
        dispatcher.add(api.RELOAD, self._reload)

    async def by_signal(self) -> None:
        """Read it again as nobody waits for the answer: the log has it."""
        try:
            await self.reload()
        except UserError as wrong:
            log.error("not reloaded, nothing is changed: %s", wrong.message)  # noqa: TRY400  it says it all
            return
        except Exception as fault:
            note("reading the configuration again", fault)

    async def checks(self) -> list[api.Check]:
        """Return what doctor says of the file that the daemon goes by, which is not its caller's."""
        place = str(self._config.file or "none; everything has its default")
        remarks: list[api.Check] = [
            {"name": "configuration", "ok": True, "level": "warning", "detail": remark}
            for remark in self._remarks(self._started)
        ]
        try:
            new = await trio.to_thread.run_sync(self._read)
        except UserError as wrong:
            detail = f"{wrong.message}; the daemon goes on with what it has read before"
            return [{"name": "configuration", "ok": False, "level": "error", "detail": detail}, *remarks]
        changes = [*compare(self._config, new).live, *compare(self._started, new).restart]
        if changes:
            detail = f"{place}: {', '.join(changes)} changed since it was read: tunfwd reload, or a restart"
            return [{"name": "configuration", "ok": True, "level": "warning", "detail": detail}, *remarks]
        return [{"name": "configuration", "ok": True, "level": "ok", "detail": place}, *remarks]

    async def _reload(self, _: api.Reload) -> api.ReloadResult:
        return await self.reload()

    async def reload(self) -> api.ReloadResult:
        """Read it again, and go by it. Raises UserError, nothing changed."""
        async with self._one_at_a_time:
            new = await trio.to_thread.run_sync(self._read)
            if new.file is None and self._config.file is not None:
                raise ConfigurationError(f"{new.place} is no longer there")
            node_list = await trio.to_thread.run_sync(
                partial(NodeList, self._state.directory, new.tox.public_nodes)
            )
            live, restart = compare(self._config, new).live, compare(self._started, new).restart
            problems = self._apply(new, node_list)
            if problem := await self._following.switch(new.qlog):
                problems.append(problem)
            self._config = new
            self._remark(new)
        changed = ", ".join(live) or "nothing that takes effect now"
        log.info("%s: reloaded; changed: %s", new.place, changed, extra=event("reloaded"))
        for key in restart:
            log.warning("%s %s", key, LATER)
        return {
            "file": None if new.file is None else str(new.file),
            "changed": list(live),
            "restart": list(restart),
            "problems": problems,
        }

    def _apply(self, new: Config, node_list: NodeList) -> list[str]:
        daemon = self._daemon
        set_level(new.log_level.upper())
        self._nodes.reconfigure(
            node_list, new.tox.settings(self._state.identity(), self._nickname, node_list.public)
        )
        if daemon.client.name != (name := new.tox.nickname or self._nickname):
            daemon.client.name = name
        daemon.contacts.accept_by_rule(AutoAccept(new.auto_accept_friends, new.auto_accept_groups))
        policy = Policy(new.rules, new.exposed)
        if policy != daemon.offers.policy:
            daemon.offers.policy = policy
            daemon.contacts.explain_rules()
            for peer in daemon.datapath.peers:
                daemon.offers.reconsider(peer)
                daemon.datapath.scheduler.touch(peer)
        return self._declared.apply(new)

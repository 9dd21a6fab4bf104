"""The daemon: sets up what needs privilege, gives privilege up, then runs everything in one nursery."""

import contextlib
import difflib  # noqa: F401  a mistake in the configuration takes it; from later on this user may not read it
import encodings.idna  # noqa: F401  host names take it
import gc
import logging
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from ipaddress import IPv4Interface, IPv4Network, IPv6Interface
from typing import TYPE_CHECKING, Final

import trio

from tunfwd.common.errors import ConfigurationError, UserError
from tunfwd.config import document as configuration
from tunfwd.config.document import DEFAULT_RANGE, Config
from tunfwd.control.listener import Listener, listening
from tunfwd.control.server import serve
from tunfwd.daemon.commands.doctor import UNGUARDED, Capture, Health, RootlessHealth
from tunfwd.daemon.commands.main import dispatcher
from tunfwd.daemon.commands.nodes import NodeCommands
from tunfwd.daemon.commands.reload import Reloading
from tunfwd.daemon.contacts.offers import Policy
from tunfwd.daemon.contacts.tracker import AutoAccept
from tunfwd.daemon.datapath.datapath import Machine
from tunfwd.daemon.datapath.engine import Engine
from tunfwd.daemon.datapath.fanout import DENIED
from tunfwd.daemon.datapath.socks import Socks
from tunfwd.daemon.process.confinement import Confinement, configuration_of, confine
from tunfwd.daemon.process.handover import leave_root, say_if_unreadable
from tunfwd.daemon.process.hangup import Hangup
from tunfwd.daemon.process.hooks import Hooks
from tunfwd.daemon.process.hooks import start as start_hooks
from tunfwd.daemon.process.logs import Log, record_little
from tunfwd.daemon.process.notify import Notifier
from tunfwd.daemon.resolver import reverse_zone
from tunfwd.daemon.storage.addresses import resolver_of
from tunfwd.daemon.storage.kept import Storage
from tunfwd.daemon.storage.nodes import NodeList
from tunfwd.daemon.storage.state import State
from tunfwd.daemon.storage.write_behind import WriteBehind
from tunfwd.daemon.wiring import Daemon, Options
from tunfwd.forwarding.flow_table import Limits
from tunfwd.forwarding.session import CARRIER_FEATURES, FEATURES
from tunfwd.forwarding.session import Settings as SessionSettings
from tunfwd.link import Bbr, Cubic, NewReno
from tunfwd.link.congestion import ControllerFactory
from tunfwd.loop import Loop
from tunfwd.services.listening import bind_stream
from tunfwd.services.poller import Poller, raise_descriptor_limit
from tunfwd.tox.binding import memory
from tunfwd.tox.binding.errors import ToxcoreUnusable, ToxError
from tunfwd.tox.client import Client
from tunfwd.tox.handler import Handler
from tunfwd.tox.identity import IdentityError, read_passphrase
from tunfwd.tox.sockets import SettingUnusable
from tunfwd.tun import network, privileges, resolved
from tunfwd.tun.admission import admitting, find_users
from tunfwd.tun.capture import capturing
from tunfwd.tun.device import Device, DeviceError, DeviceLost
from tunfwd.tun.keeper import Keeper, keep
from tunfwd.tun.listeners import Listeners, local_interface
from tunfwd.tun.local_addresses import LocalAddresses
from tunfwd.tun.nodevice import NoDevice
from tunfwd.tun.upkeep import Layout, set_guards
from tunfwd.tun.users import Users

if TYPE_CHECKING:
    from tunfwd.daemon.commands.metrics import MetricsPage

GC_THRESHOLD: Final = 50_000
"""Allocations; at the default of 700 collecting takes a part of every packet's time."""

NOT_TOLD: Final = "systemd-resolved does not know the names of contacts: %s; docs/names.md"
METRICS: Final = "tunfwd.daemon.commands.metrics"
"""Imported where the configuration asks for them: they take a library that is slow to load."""

ROOTLESS: Final = "127.77.0.0"  # where contacts are without a device: any user may bind all of 127.0.0.0/8

CONTROLLERS: Final[dict[str, ControllerFactory]] = {"bbr": Bbr, "cubic": Cubic, "newreno": NewReno}

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Tunnel:
    """The TUN device, set up, with our addresses on it; or what there is in place of it."""

    device: Device | NoDevice
    addresses: tuple[IPv4Interface, IPv6Interface]
    users: set[int] | None
    """Whose programs reach contacts; None: everybody's."""
    health: Callable[[Confinement], Health | RootlessHealth]
    keeper: Keeper | None = None
    local: LocalAddresses | None = None
    """The addresses of this machine."""
    forwarded: bool = False
    """Whether packets may come from others, too."""

    @property
    def is_rootless(self) -> bool:
        """Whether it is without a device."""
        return isinstance(self.device, NoDevice)


def run(path: str | None = None, *, rootless: bool = False) -> int:
    """Be the daemon until SIGINT, SIGTERM or the end of its terminal; returns the exit code.

    Raises UserError where it cannot.
    """
    read = partial(configuration.load, path, environ=dict(os.environ), euid=os.geteuid())
    config = read()
    hangup = Hangup()
    record_little()
    with Log(config.log_level.upper()) as writer:
        _run(config, rootless, read, hangup, writer)
    return 0


def _run(config: Config, rootless: bool, read: Callable[[], Config], hangup: Hangup, writer: Log) -> None:
    os.umask(0o077)
    if config.metrics.listen is not None:
        import_module(METRICS)  # while the libraries can be read: the user may be another one soon
    with contextlib.closing(NoDevice(config.network.mtu)) if rootless else _device(config) as device:
        try:
            file = config.tox.passphrase_file
            passphrase = read_passphrase(file) if file else None  # root's alone, like the device
            bus = _bus_of_resolved(config) if not rootless else None  # whom it takes for root from now on
            leave_root(config)
            say_if_unreadable(config)
            with (
                _hooks(config) as hooks,
                State.load(config.state) as state,
                listening(config.socket, config.group) as listener,
                _ground(config, device, bus) as tunnel,
            ):
                memory.disable_mlock()
                gc.freeze()
                gc.set_threshold(GC_THRESHOLD)
                loop = Loop()
                parts = config, read, hangup, state, listener, tunnel, hooks, passphrase, writer
                loop.host(partial(_serve, loop, *parts))
        except BaseExceptionGroup as group:
            raise _explain(group) from group
        except (DeviceLost, ToxError, ToxcoreUnusable, IdentityError, SettingUnusable) as error:
            raise _explain(error) from error


@contextlib.contextmanager
def _device(config: Config) -> Iterator[Device]:
    """Open the TUN device: the one thing for which /dev/net/tun is needed, which may be root's alone."""
    try:
        privileges.check()  # before anything is written, so that a try without them leaves nothing behind
        device = Device.open(config.network.interface, config.network.mtu)
    except (privileges.PrivilegeError, DeviceError) as error:
        raise UserError("privilege", str(error)) from None
    try:
        yield device
    finally:
        device.close()


def _ground(
    config: Config, device: Device | NoDevice, bus: resolved.Bus | None
) -> contextlib.AbstractContextManager[Tunnel]:
    if isinstance(device, NoDevice):
        return _sockets(config, device)
    return _tunnel(config, device, bus)


@contextlib.contextmanager
def _tunnel(config: Config, device: Device, bus: resolved.Bus | None) -> Iterator[Tunnel]:
    """Give the device its addresses and routes, and have them kept as they are."""
    name, wanted = device.name, config.network
    try:
        range4 = network.choose_range(wanted.range or DEFAULT_RANGE, name)
        range6 = network.choose_range(wanted.range6, name)
        for preferred, chosen in ((wanted.range or DEFAULT_RANGE, range4), (wanted.range6, range6)):
            if chosen.conflict is not None:
                log.warning("%s is in use (%s): using %s instead", preferred, chosen.conflict, chosen.network)
        ipv4 = IPv4Interface((range4.network[1], range4.network.prefixlen))
        ipv6 = IPv6Interface((range6.network[1], range6.network.prefixlen))
        if reason := network.configure(name, ipv4, ipv6):
            log.warning("%s has IPv4 only: %s", name, reason)
        layout = Layout.of(name, ipv4, ipv6)
        set_guards(layout)
        log.info("%s is up, with %s", name, ipv4)
        if bus is not None:
            _tell_resolved(bus, layout, config.dns.domain)
        users = _users(config)
        with (
            _capturing(config, layout) as capture,
            admitting(layout, users) as unguarded,
            LocalAddresses() as local,
            contextlib.closing(keep(layout, partial(confine, ()))) as keeper,
        ):
            if unguarded is not None:
                log.warning("%s%s", UNGUARDED, unguarded)

            def health(confinement: Confinement) -> Health:
                return Health(layout, keeper, confinement, unguarded, capture)

            yield Tunnel(device, layout.addresses, users, health, keeper, local, wanted.forwarded)
    except network.NetworkError as error:
        raise UserError("privilege", str(error)) from None


def _bus_of_resolved(config: Config) -> resolved.Bus | None:
    """Join the bus, where the system's resolver is systemd-resolved, and is to know the names of contacts."""
    try:
        return resolved.join() if config.dns.enabled and resolved.is_ours() else None
    except resolved.NotTold as trouble:
        log.warning(NOT_TOLD, trouble)
        return None


def _tell_resolved(bus: resolved.Bus, layout: Layout, domain: str) -> None:
    """Have systemd-resolved know the names of contacts."""
    networks = (layout.ipv4.network, layout.ipv6.network)
    domains = [domain, *(str(reverse_zone(network)).removesuffix(".") for network in networks)]
    try:
        resolved.tell(bus, layout.index, [resolver_of(layout.ipv4.network)], domains)
        log.info("systemd-resolved asks for names of %s here", domain)
    except resolved.NotTold as trouble:
        log.warning(NOT_TOLD, trouble)


@contextlib.contextmanager
def _capturing(config: Config, layout: Layout) -> Iterator[Capture]:
    """Have broadcasts copied that leave by other interfaces, where that is asked for."""
    if not (config.lan.capture and config.lan.broadcast):
        yield Capture()
        return
    with capturing(layout, DENIED) as trouble:
        if trouble is not None:
            log.warning("[lan] capture %s", trouble)
        yield Capture(True, trouble)


@contextlib.contextmanager
def _sockets(config: Config, device: NoDevice) -> Iterator[Tunnel]:
    """Do without a device: contacts have addresses of the loopback, which any user may listen at."""
    size = (config.network.range or DEFAULT_RANGE).prefixlen
    range4 = IPv4Network((ROOTLESS, size), strict=False)
    range6 = config.network.range6
    addresses = (IPv4Interface((range4[1], size)), IPv6Interface((range6[1], range6.prefixlen)))
    try:
        users = _users(config)
    except network.NetworkError as error:
        raise UserError("privilege", str(error)) from None
    log.info("without a device: ports of contacts listen on %s", range4)
    yield Tunnel(device, addresses, users, partial(RootlessHealth, range4))


def _users(config: Config) -> set[int] | None:
    """Return who may reach contacts. Raises NetworkError."""
    return None if config.network.users is None else find_users(config.network.users)


async def _serve(
    loop: Loop,
    config: Config,
    read: Callable[[], Config],
    hangup: Hangup,
    state: State,
    listener: Listener,
    tunnel: Tunnel,
    hooks: Hooks | None,
    passphrase: bytes | None,
    writer: Log,
) -> None:
    """Wire the parts together, give up the last privileges, and run."""
    saver = WriteBehind(state)
    node_list = NodeList(state.directory, config.tox.public_nodes)
    with contextlib.ExitStack() as stack:
        notifier = stack.enter_context(contextlib.closing(Notifier()))  # connected while it may be

        def start(handler: Handler) -> Client:
            settings = config.tox.settings(state.identity(), _nickname(), node_list.public)
            return stack.enter_context(Client(settings, handler, passphrase))

        machine = _machine(loop, tunnel, stack.enter_context(Listeners()))
        daemon = Daemon(machine, state.content, saver.save, _options(config), start)
        stack.enter_context(daemon.events)
        metrics = await _metrics_page(config)
        _socks(config, machine, daemon)
        privileges.drop()  # toxcore has bound its ports, and has read nothing from them
        confinement = confine([state.directory, config.socket.parent], configuration_of(config.place))
        writer.start()
        datapath, client = daemon.datapath, daemon.client
        health = tunnel.health(confinement)
        nodes = NodeCommands(client, node_list)
        reloading = Reloading(config, read, daemon, state, nodes, _nickname(), saver.save)
        commands = dispatcher(daemon, Storage(state, saver, client), health, nodes, reloading)
        async with trio.open_nursery() as nursery:
            await nursery.start(datapath.poller.run)
            await nursery.start(saver.run)
            await nursery.start(datapath.services.run)
            await nursery.start(datapath.engine.run)
            if tunnel.keeper is not None:
                nursery.start_soon(_log_reports, tunnel.keeper)
                nursery.start_soon(tunnel.keeper.run)
            if tunnel.local is not None:
                nursery.start_soon(tunnel.local.follow)
            await nursery.start(client.run, loop)
            reloading.begin()
            listened = trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, *hangup.signals)
            signals = stack.enter_context(listened)
            await nursery.start(serve, listener, commands)
            if metrics is not None:
                await nursery.start(metrics.serve, commands)
            if hooks is not None:
                nursery.start_soon(hooks.run, daemon.events)
            nursery.start_soon(notifier.keep_alive)
            notifier.tell("READY=1")
            own = daemon.contacts.own.among_friends
            log.info(
                "our Tox address is %s; friends reach us at %s", client.address, own.address or own.address6
            )
            await _run_to_the_end(datapath.engine, signals, hangup, reloading, notifier)
            nursery.cancel_scope.cancel()
        if datapath.engine.lost is not None:
            raise datapath.engine.lost


@contextlib.contextmanager
def _hooks(config: Config) -> Iterator[Hooks | None]:
    """Have what runs hooks started while this process still can, and before it has a thread."""
    if not config.hooks:
        yield None
        return
    with contextlib.closing(
        start_hooks(config.hooks, os.environ | {"TUNFWD_SOCKET": str(config.socket)})
    ) as hooks:
        yield hooks


async def _metrics_page(config: Config) -> "MetricsPage | None":
    if config.metrics.listen is None:
        return None
    page: MetricsPage = await import_module(METRICS).MetricsPage.open(config.metrics.listen)
    return page


async def _run_to_the_end(
    engine: Engine,
    signals: AsyncIterator[int],
    hangup: Hangup,
    reloading: Reloading,
    notifier: Notifier,
) -> None:
    """Return after a signal, or without a device, when the contacts have been told."""
    try:
        async with trio.open_nursery() as nursery:

            async def told() -> None:
                async for number in signals:
                    if number == signal.SIGHUP and not hangup.is_the_end():
                        nursery.start_soon(reloading.by_signal)
                        continue
                    log.info("%s: ending", signal.Signals(number).name)
                    nursery.cancel_scope.cancel()

            nursery.start_soon(told)
            await engine.device_lost.wait()
            log.error("%s: ending", engine.lost)
            nursery.cancel_scope.cancel()
        notifier.tell("STOPPING=1")
        await engine.end()
    except BaseException:
        engine.leave()  # a fault of ours: contacts hear of it all the same, as far as one packet reaches
        raise


async def _log_reports(keeper: Keeper) -> None:
    """Say what others changed on the device, and what became of it."""
    while (report := await keeper.next_report()) is not None:
        log.warning("%s", report)
    log.warning("the process that keeps the device as it is has ended: what others change is not put back")


def _machine(loop: Loop, tunnel: Tunnel, listeners: Listeners) -> Machine:
    loopback = local_interface()
    return Machine(
        device=tunnel.device,
        addresses=tunnel.addresses,
        interface=loopback if tunnel.is_rootless else socket.if_nametoindex(tunnel.device.name),
        loopback=loopback,
        listeners=listeners,
        local=None if tunnel.forwarded else tunnel.local,
        present=tunnel.local,
        speak_from=(lambda _: None) if tunnel.keeper is None else tunnel.keeper.want,
        rootless=tunnel.is_rootless,
        admission=None if tunnel.users is None else Users(listeners, tunnel.users),
        poller=Poller(raise_descriptor_limit(), loop),
    )


def _socks(config: Config, machine: Machine, daemon: Daemon) -> None:
    """Have a SOCKS server, where one is wanted."""
    listen = config.socks.listen
    if listen is None:
        return
    try:
        listener = bind_stream(str(listen.address), listen.port)
    except OSError as error:
        raise ConfigurationError(
            f"[socks] listen: {listen.address}:{listen.port}: {error.strerror}"
        ) from None
    datapath = daemon.datapath
    Socks(
        listener,
        datapath.poller,
        datapath.outbound,
        datapath.peers,
        datapath.scheduler,
        daemon.names,
        machine.admission,
    )
    log.info("SOCKS5 is served at %s:%d", listen.address, listen.port)


def _options(config: Config) -> Options:
    forwarding = config.forwarding
    limits = Limits(2 * forwarding.connect_timeout, forwarding.udp_idle)
    features = FEATURES if forwarding.link else CARRIER_FEATURES
    return Options(
        policy=Policy(config.rules, config.exposed),
        connect_timeout=forwarding.connect_timeout,
        session=SessionSettings(features, limits, forwarding.outage, CONTROLLERS[forwarding.congestion]),
        auto_accept=AutoAccept(config.auto_accept_friends, config.auto_accept_groups),
        domain=config.dns.domain if config.dns.enabled else None,
        broadcast=config.lan.broadcast,
    )


def _nickname() -> str:
    return socket.gethostname()[:63] or "tunfwd"


def _explain(error: BaseException) -> BaseException:
    """Return what a person is told of a failure; bugs propagate unchanged."""
    match error:
        case BaseExceptionGroup(exceptions=(only,)):
            return _explain(only)
        case DeviceLost():
            return UserError("failed", str(error))
        case ToxcoreUnusable() | IdentityError() | SettingUnusable():
            return ConfigurationError(str(error))
        case ToxError():
            return UserError("failed", f"toxcore: {error}")
    return error

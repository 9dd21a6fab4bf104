"""`tunfwd daemon` from its configuration to its end, on a machine without a device and without libtoxcore."""

from __future__ import annotations

import gc
import logging
import os
import pwd
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import pytest

from tunfwd.common.errors import UserError
from tunfwd.control import api
from tunfwd.control.client import Client
from tunfwd.daemon import main
from tunfwd.daemon.commands import doctor
from tunfwd.daemon.process import hangup
from tunfwd.daemon.process.confinement import Confinement
from tunfwd.tox.binding import memory
from tunfwd.tox.binding.errors import ToxcoreUnusable, ToxError
from tunfwd.tox.identity import IdentityError
from tunfwd.tox.sockets import SettingUnusable
from tunfwd.tun import device as tun_device
from tunfwd.tun import network as tun_network
from tunfwd.tun import privileges, resolved
from tunfwd.tun.device import DeviceError, DeviceLost, Offload, Statistics
from tunfwd.tun.network import NetworkError, Range, Use

from ..tox.simulated_toxcore import Network, installed, refuse
from .joined import Signal


class Device:
    """One that nothing comes from, until it is lost."""

    name = "lo"  # there is one of that name
    mtu = 1500
    offload = Offload(0)

    def __init__(self) -> None:
        self.statistics = Statistics()
        self.lost = False
        self.closed = False
        self._signal = Signal()

    def fileno(self) -> int:
        return self._signal.fileno()

    def lose(self) -> None:
        self.lost = True
        self._signal.set()

    def read(self) -> list[bytes]:
        raise DeviceLost("tunfwd0 was deleted")

    def write(self, frame: list[Any]) -> bool:
        return True

    def close(self) -> None:
        self.closed = True


@dataclass
class Keeper:
    """The process that keeps the device, which has something to report and ends."""

    reports: list[str] = field(default_factory=lambda: ["the address 10.77.0.1 was gone, and is back"])
    alive = True
    sources: tuple[Any, ...] = ()

    def want(self, sources: tuple[Any, ...]) -> None:
        self.sources = sources

    async def run(self) -> None:
        pass

    async def next_report(self) -> str | None:
        return self.reports.pop() if self.reports else None

    def close(self) -> None:
        self.alive = False


@dataclass
class Machine:
    """What the daemon asked of the machine, in order."""

    socket: Path
    config: Path
    device: Device = field(default_factory=Device)
    keeper: Keeper = field(default_factory=Keeper)
    steps: list[str] = field(default_factory=list)

    def _connect(self) -> Client | None:
        try:
            return Client(self.socket)
        except UserError:  # the socket is not there yet, or nobody listens there yet
            return None

    def run(
        self, meanwhile: Callable[[Client], object] = lambda client: None, *, rootless: bool = False
    ) -> int:
        """Run the daemon; when it serves, do something in a thread beside it, and end it by a signal."""
        failures: list[BaseException] = []
        over = threading.Event()

        def beside() -> None:
            try:
                while (client := self._connect()) is None:
                    if over.wait(0.01):
                        return
                with client:
                    meanwhile(client)
            except BaseException as failure:
                failures.append(failure)
            finally:
                while not self.device.lost and not over.wait(0.05):  # until it is heard
                    os.kill(os.getpid(), signal.SIGTERM)

        thread = threading.Thread(target=beside)
        thread.start()
        try:
            return main.run(str(self.config), rootless=rootless)
        finally:
            over.set()
            thread.join()
            for failure in failures:
                raise failure


@pytest.fixture
def process() -> Iterator[None]:
    """What a daemon changes of its process is put back."""
    mask, threshold, sighup = os.umask(0o077), gc.get_threshold(), signal.getsignal(signal.SIGHUP)
    terminate = signal.signal(signal.SIGTERM, lambda *_: None)  # before the daemon listens for it, and after
    yield
    signal.signal(signal.SIGTERM, terminate)
    os.umask(mask)
    gc.unfreeze()
    gc.set_threshold(*threshold)
    signal.signal(signal.SIGHUP, sighup)


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Network:
    return installed(monkeypatch)


@pytest.fixture
def machine(process: None, network: Network, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Machine:
    """A machine whose kernel does as it is told."""
    config = tmp_path / "config.toml"
    config.write_text(
        f'[control]\nsocket = "{tmp_path}/run/control.sock"\n'
        "[tox]\npublic_nodes = false\nlocal_discovery = false\n"
    )
    monkeypatch.setenv("TUNFWD_STATE_DIR", str(tmp_path / "state"))
    machine = Machine(tmp_path / "run/control.sock", config)

    def step(what: str, result: object = None) -> Callable[..., Any]:
        def take(*_: object, **__: object) -> object:
            machine.steps.append(what)
            return result

        return take

    monkeypatch.setattr(privileges, "check", step("look for privileges"))
    monkeypatch.setattr(tun_device.Device, "open", step("open the device", machine.device))
    monkeypatch.setattr(main, "leave_root", step("leave root"))
    monkeypatch.setattr(tun_network, "choose_range", lambda preferred, name: Range(preferred, None))
    monkeypatch.setattr(tun_network, "configure", step("configure"))
    monkeypatch.setattr(main, "set_guards", step("set guards"))
    monkeypatch.setattr(main, "admitting", step("admit", nullcontext()))
    monkeypatch.setattr(main, "keep", step("keep", machine.keeper))
    monkeypatch.setattr(privileges, "drop", step("drop privileges"))
    monkeypatch.setattr(main, "confine", step("confine", Confinement(0, False)))
    monkeypatch.setattr(memory, "disable_mlock", step("never lock"))
    monkeypatch.setattr(resolved, "is_ours", lambda: False)
    monkeypatch.setattr(doctor, "inspect", lambda layout, sources: [])
    return machine


def test_it_serves_until_it_is_told_to_end(machine: Machine, capfd: pytest.CaptureFixture[str]) -> None:
    seen: dict[str, Any] = {}

    def look(client: Client) -> None:
        seen["id"] = client.call(api.IDENTITY, {})
        seen["status"] = client.call(api.STATUS, {})
        seen["doctor"] = client.call(api.DOCTOR, {})

    assert machine.run(look) == 0
    assert machine.steps == [
        "look for privileges",
        "open the device",
        "leave root",
        "configure",
        "set guards",
        "admit",
        "keep",
        "never lock",
        "drop privileges",
        "confine",
    ]
    assert (seen["id"]["device_address"], seen["id"]["interface"]) == ("10.77.0.1", "lo")
    own = [str(source.address) for source in machine.keeper.sources]
    assert sorted(own) == sorted([seen["id"]["virtual_address"], seen["id"]["virtual_address6"]])
    assert seen["status"]["network"] == "online"
    checks = {check["name"]: check for check in seen["doctor"]["checks"]}
    assert "*.tunfwd.internal is answered for at 10.77.0.53" in checks["names"]["detail"]
    assert checks["device"]["detail"] == "lo is up, with 10.77.0.0/16 and fd74:756e:6677::/48"
    assert checks["confinement"]["detail"].endswith("not confined; no seccomp and no Landlock here")
    assert checks["neighbours"]["level"] == "ok"
    assert machine.device.closed
    assert not machine.keeper.alive
    assert not machine.socket.exists()
    written = capfd.readouterr().err
    assert f"our Tox address is {seen['id']['address']}" in written
    assert "the address 10.77.0.1 was gone, and is back" in written
    assert "SIGTERM: ending" in written


def test_without_a_device_nothing_of_the_machine_is_asked_for(
    machine: Machine, capfd: pytest.CaptureFixture[str]
) -> None:
    seen: dict[str, Any] = {}

    def look(client: Client) -> None:
        seen["id"] = client.call(api.IDENTITY, {})
        seen["doctor"] = client.call(api.DOCTOR, {})

    assert machine.run(look, rootless=True) == 0
    assert machine.steps == ["leave root", "never lock", "drop privileges", "confine"]
    identity = seen["id"]
    assert identity["virtual_address"].startswith("127.77.")
    assert (identity["interface"], identity["mode"]) == ("", "rootless")
    checks = {check["name"]: check for check in seen["doctor"]["checks"]}
    assert "a connection is made before the contact's service is known" in checks["mode"]["detail"]
    assert checks["addresses"]["detail"].endswith("addresses of 127.77.0.0/16 are taken")
    assert not {"device", "keeper", "neighbours"} & checks.keys()
    assert "ports of contacts listen on 127.77.0.0/16" in capfd.readouterr().err


@pytest.mark.parametrize("named", [True, False])
def test_who_asks_is_told_whether_programs_of_theirs_reach_contacts(machine: Machine, named: bool) -> None:
    me = pwd.getpwuid(os.geteuid()).pw_name
    other = next(user.pw_name for user in pwd.getpwall() if user.pw_uid != os.geteuid())
    with machine.config.open("a") as config:
        config.write(f'[network]\nusers = ["{me if named else other}"]\n')
    seen: dict[str, Any] = {}

    def look(client: Client) -> None:
        seen["checks"] = client.call(api.DOCTOR, {})["checks"]

    assert machine.run(look, rootless=True) == 0
    [check] = [check for check in seen["checks"] if check["name"] == "users"]
    assert (check["level"] == "ok") == named
    assert check["detail"].endswith("names you" if named else "does not name you")


def test_who_it_is_outlives_it(machine: Machine) -> None:
    keys: list[str] = []
    for _ in range(2):
        machine.run(lambda client: keys.append(client.call(api.IDENTITY, {})["public_key"]))
    assert keys[0] == keys[1]


def test_without_its_device_it_ends(machine: Machine) -> None:
    def lose(client: Client) -> None:
        client.call(api.STATUS, {})
        machine.device.lose()

    with pytest.raises(UserError, match="tunfwd0 was deleted") as ended:
        machine.run(lose)
    assert ended.value.code == "failed"
    assert machine.device.closed


@pytest.mark.parametrize(
    ("owner", "name", "failure"),
    [
        (privileges, "check", privileges.PrivilegeError("no permission")),
        (tun_device.Device, "open", DeviceError("no such name")),
    ],
)
def test_without_a_device_it_writes_nothing(
    machine: Machine,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    owner: object,
    name: str,
    failure: Exception,
) -> None:
    def fail(*_: object) -> None:
        raise failure

    monkeypatch.setattr(owner, name, fail)
    with pytest.raises(UserError, match=str(failure)) as refused:
        main.run(str(machine.config))
    assert refused.value.code == "privilege"
    assert not (tmp_path / "state").exists()


def error(code: str) -> ToxError:
    with pytest.raises(ToxError) as raised:
        refuse("TOX_ERR_NEW", code)
    return raised.value


@pytest.mark.parametrize(
    ("failure", "code", "message"),
    [
        (SettingUnusable("[tox] udp_port is in use"), "configuration", "[tox] udp_port is in use"),
        (error("MALLOC"), "failed", "toxcore: TOX_ERR_NEW_MALLOC"),
        (ToxcoreUnusable("libtoxcore is not there"), "configuration", "libtoxcore is not there"),
        (IdentityError("identity x is damaged"), "configuration", "identity x is damaged"),
    ],
)
def test_what_keeps_a_node_from_starting(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, failure: Exception, code: str, message: str
) -> None:
    def fail(*_: object) -> None:
        raise failure

    monkeypatch.setattr(main, "Client", fail)
    with pytest.raises(UserError) as refused:
        main.run(str(machine.config))
    assert (refused.value.code, refused.value.message) == (code, message)
    assert machine.device.closed


def test_a_mistake_of_ours_is_not_explained_away(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise KeyError("a mistake")

    monkeypatch.setattr(main, "Client", fail)
    with pytest.raises(KeyError):
        main.run(str(machine.config))


def test_a_network_that_cannot_be_set_up(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise NetworkError("every range is in use")

    monkeypatch.setattr(tun_network, "choose_range", fail)
    with pytest.raises(UserError, match="every range is in use") as refused:
        main.run(str(machine.config))
    assert refused.value.code == "privilege"


def test_what_is_not_as_it_was_wanted_is_said(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Another range, no IPv6, nobody kept out; and the daemon runs all the same."""
    other = Use(IPv4Network("10.77.0.0/24"), "eth0")

    def choose(preferred: Any, name: str) -> Any:
        taken = preferred.version == 4
        return Range(IPv4Network("10.78.0.0/16") if taken else preferred, other if taken else None)

    monkeypatch.setattr(tun_network, "choose_range", choose)
    monkeypatch.setattr(tun_network, "configure", lambda *_: "disabled by the administrator")
    monkeypatch.setattr(main, "admitting", lambda *_: nullcontext("this kernel has no nf_tables"))
    details: list[str] = []

    def look(client: Client) -> None:
        assert client.call(api.IDENTITY, {})["device_address"] == "10.78.0.1"
        details.extend(check["detail"] for check in client.call(api.DOCTOR, {})["checks"])

    assert machine.run(look) == 0
    written = capfd.readouterr().err
    assert "10.77.0.0/16 is in use (10.77.0.0/24 on eth0): using 10.78.0.0/16 instead" in written
    assert "lo has IPv4 only: disabled by the administrator" in written
    assert "neighbours may send services UDP in the name of contacts" in written
    assert any("this kernel has no nf_tables" in detail for detail in details)


class Terminal:
    """Whether there is one, for `open`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, there: bool) -> None:
        self.there = there
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # whatever started the tests
        monkeypatch.setattr(hangup, "_has_terminal", lambda: self.there)


def send_hangup(client: Client) -> None:
    client.call(api.VERSION, {})  # it serves, and so listens for signals
    os.kill(os.getpid(), signal.SIGHUP)


def wait_for(client: Client, condition: Callable[[], object]) -> None:
    while not condition():
        client.call(api.VERSION, {})


def test_a_service_reads_its_configuration_again_at_a_hangup(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    Terminal(monkeypatch, there=False)
    seen: list[str] = []

    def look(client: Client) -> None:
        machine.config.write_text(machine.config.read_text() + '[log]\nlevel = "debug"\n')
        send_hangup(client)
        wait_for(client, lambda: logging.getLogger("tunfwd").level == logging.DEBUG)
        machine.config.write_text("[tox]\nbootsrap = 1\n")
        send_hangup(client)
        while "not reloaded" not in "".join(seen):
            seen.append(capfd.readouterr().err)
            client.call(api.VERSION, {})
        assert logging.getLogger("tunfwd").level == logging.DEBUG

    assert machine.run(look) == 0
    written = "".join(seen)
    assert f"{machine.config}: reloaded; changed: [log] level" in written
    assert "not reloaded, nothing is changed" in written
    assert f"{machine.config}, line 2: [tox] bootsrap is not known" in written


def test_a_terminal_that_is_there_does_not_end_it(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody sent the signal; the terminal's own says that it is gone."""
    terminal = Terminal(monkeypatch, there=True)

    def look(client: Client) -> None:
        machine.config.write_text(machine.config.read_text() + '[log]\nlevel = "debug"\n')
        send_hangup(client)
        wait_for(client, lambda: logging.getLogger("tunfwd").level == logging.DEBUG)
        terminal.there = False
        send_hangup(client)
        with pytest.raises(UserError):
            wait_for(client, lambda: False)

    assert machine.run(look) == 0


def test_nohup_is_respected(process: None, monkeypatch: pytest.MonkeyPatch) -> None:
    Terminal(monkeypatch, there=False)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    assert hangup.Hangup().signals == ()
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    assert hangup.Hangup().signals == (signal.SIGHUP,)
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN  # until it can be acted on

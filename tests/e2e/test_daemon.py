"""A daemon by itself, from its first start on: identity, state, configuration, device, privilege."""

from __future__ import annotations

import grp
import json
import os
import pwd
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from ipaddress import IPv6Address, IPv6Network
from pathlib import Path

import pytest

from netns.node import START_TIME, STOP_TIME, TUNFWD, Node
from netns.topology import Topology

from .hosts import TIME, eventually, folder_of_daemons, make_socket

pytestmark = [pytest.mark.netns, pytest.mark.toxnet]

ADDRESS_DIGITS = 76
AT_ONCE = 2.0  # s


@pytest.fixture
def node(net: Topology, tmp_path: Path) -> Iterator[Node]:
    """Of eve, not started; its files have short paths."""
    node = Node(net["eve"], tmp_path)
    yield node
    node.kill()
    assert "Traceback" not in node.log, node.log[-4000:]


def fails(node: Node) -> subprocess.CompletedProcess[str]:
    """Run the daemon, which is to end by itself."""
    return node.host.run([TUNFWD, "daemon"], env=os.environ | node.environment, check=False)


def links(node: Node) -> list[str]:
    return [
        line.split(": ")[1].partition("@")[0]
        for line in node.host.run(["ip", "-o", "link"]).stdout.splitlines()
    ]


def test_first_start_and_orderly_end(node: Node) -> None:
    assert node.cli("id", check=False).returncode == 3
    assert node.cli("offers", check=False).returncode == 3
    node.start()
    identity = node.identity()
    assert len(identity["address"]) == ADDRESS_DIGITS
    assert identity["interface"] in links(node)
    state = node.folder / "state"
    assert stat.S_IMODE(state.stat().st_mode) == 0o700
    for path in (*state.iterdir(), node.folder / "control.sock"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    assert node.stop() == 0
    assert identity["interface"] not in links(node)
    routes = [line for line in node.host.run(["ip", "route"]).stdout.splitlines() if "10.77" in line]
    assert [line.split()[:2] for line in routes] == [["unreachable", "10.77.0.0/16"]]
    assert not (node.folder / "control.sock").exists()
    node.start()
    assert node.identity()["address"] == identity["address"]
    assert node.identity()["virtual_address"] == identity["virtual_address"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_it_at_once(node: Node, number: signal.Signals) -> None:
    times: list[float] = []
    while not times or (min(times) > AT_ONCE and len(times) < 3):  # a busy machine may take longer for one
        node.start()
        assert node.daemon is not None
        node.daemon.send_signal(number)
        start = time.monotonic()
        assert node.daemon.wait(STOP_TIME) == 0
        times.append(time.monotonic() - start)
        assert "tunfwd0" not in links(node)
    assert min(times) < AT_ONCE


def test_kill_9_leaves_nothing_that_stops_the_next(node: Node) -> None:
    node.start()
    address = node.identity()["address"]
    node.kill()
    assert "tunfwd0" not in links(node)
    node.start()
    assert node.identity()["address"] == address


def test_an_encrypted_identity(node: Node) -> None:
    passphrase = node.folder / "passphrase"
    passphrase.write_text("correct horse battery staple\n")
    node.configure({"tox": {"passphrase_file": str(passphrase)}})
    node.start()
    address = node.identity()["address"]
    node.stop()
    node.start()
    assert node.identity()["address"] == address
    node.stop()
    savedata = (node.folder / "state" / "identity.tox").read_bytes()
    assert savedata.startswith(b"toxEsave")

    passphrase.write_text("wrong\n")
    wrong = fails(node)
    assert (wrong.returncode, wrong.stdout) == (7, "")
    assert "passphrase" in wrong.stderr
    node.configure({})
    without = fails(node)
    assert without.returncode == 7
    assert "passphrase_file" in without.stderr
    assert (node.folder / "state" / "identity.tox").read_bytes() == savedata


def test_a_plain_identity_becomes_encrypted(node: Node) -> None:
    node.start()
    address = node.identity()["address"]
    node.stop()
    passphrase = node.folder / "passphrase"
    passphrase.write_text("from now on\n")
    node.configure({"tox": {"passphrase_file": str(passphrase)}})
    node.start()
    assert node.identity()["address"] == address
    node.stop()
    assert (node.folder / "state" / "identity.tox").read_bytes().startswith(b"toxEsave")


@pytest.mark.parametrize("size", [0, 1, 7, 100])
def test_a_damaged_identity_without_another_stops_it_and_is_kept(node: Node, size: int) -> None:
    node.start()
    node.stop()
    path = node.folder / "state" / "identity.tox"
    path.with_name("identity.tox.previous").unlink()
    damaged = path.read_bytes()[:size]
    path.write_bytes(damaged)
    result = fails(node)
    assert result.returncode == 7
    assert "identity.tox" in result.stderr
    assert path.read_bytes() == damaged


@pytest.mark.parametrize(
    "content", [b"", b"{", b"null", b'{"schema": "x", "offers": 5}', b"\xff\xfe\x00" * 100]
)
def test_a_damaged_state_file_is_set_aside_and_said(node: Node, content: bytes) -> None:
    node.start()
    address = node.identity()["address"]
    node.stop()
    state = node.folder / "state"
    path = state / "state.json"
    path.write_bytes(content)
    before = len(node.log)
    node.start()
    assert node.identity()["address"] == address
    [aside] = state.glob(f"{path.name}.corrupt-*")
    assert aside.read_bytes() == content
    assert aside.name in node.log[before:]


def test_one_daemon_for_one_state_directory(node: Node) -> None:
    node.start()
    second = fails(node)
    assert second.returncode == 1
    assert "another daemon" in second.stderr
    assert node.identity()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[tox]\nudp = maybe", ["line 2"]),
        ("[tox]\nudp_prot = 1", ["line 2", "udp_prot"]),
        ("[network]\n\nrange = '10.77.0.0/33'", ["line 3", "10.77.0.0/33"]),
        ("[[rule]]\ncontact = 'bob'\naction = 'perhaps'", ["line 3", "action"]),
        ("[tox]\nbootstrap = ['nowhere']", ["line 2", "nowhere"]),
        ("what is this", ["line 1"]),
    ],
)
def test_mistakes_in_the_configuration(node: Node, text: str, words: list[str]) -> None:
    node.config_file.write_text(text)
    result = fails(node)
    assert result.returncode == 7
    assert len(result.stderr.splitlines()) == 1
    for word in (str(node.config_file), *words):
        assert word in result.stderr


def test_a_range_that_is_routed_elsewhere_is_not_taken(node: Node) -> None:
    node.host.run(["ip", "route", "add", "10.77.3.0/24", "via", str(node.host.address - 1), "dev", "eth0"])
    try:
        node.start()
        virtual = node.identity()["virtual_address"]
        assert virtual.startswith("10.")
        assert not virtual.startswith("10.77.")
        assert "10.77.0.0/16" in node.log
    finally:
        node.host.run(["ip", "route", "del", "10.77.3.0/24"])


def test_the_udp_port_in_use(node: Node, net: Topology) -> None:
    with make_socket(net["eve"], "::", socket.SOCK_DGRAM) as blocker:
        blocker.bind(("::", 40123))
        node.configure({"tox": {"udp_port": 40123}})
        result = fails(node)
    assert result.returncode == 7
    assert "[tox] udp_port = 40123: in use by another program" in result.stderr


def test_privilege_that_is_missing_is_said(node: Node) -> None:
    command: list[str | Path] = [
        "setpriv",
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
        TUNFWD,
        "daemon",
    ]
    node.folder.chmod(0o777)
    unprivileged = node.host.run(command, env=os.environ | node.environment, check=False)
    assert unprivileged.returncode in (7, 8)  # 7: it may not even read where its files are
    assert len(unprivileged.stderr.splitlines()) == 1
    assert not any(node.folder.glob("state/*"))


def test_state_of_another_user_is_said(node: Node) -> None:
    (node.folder / "state").mkdir(mode=0o700)
    os.chown(node.folder / "state", 65534, 65534)
    result = fails(node)
    assert result.returncode == 8
    assert "belongs to user 65534" in result.stderr
    assert (node.folder / "state").stat().st_uid == 65534


def status_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def test_root_is_left_for_a_user_without_privileges(node: Node) -> None:
    node.start()
    assert node.daemon is not None
    status = status_of(node.daemon.pid)
    user = pwd.getpwnam("tunfwd")
    assert status["Uid"].split() == [str(user.pw_uid)] * 4
    assert status["Gid"].split() == [str(user.pw_gid)] * 4
    assert status["Groups"] == ""
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(status[name], 16) == 0, name
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    confined = f"ok       confinement: user {user.pw_name}, confined by seccomp and Landlock"
    assert confined in node.cli("doctor", check=False).stdout
    for path in (node.folder / "state", *(node.folder / "state").iterdir(), node.folder / "control.sock"):
        assert path.stat().st_uid == user.pw_uid, path


def test_beside_it_a_process_keeps_the_device_with_one_capability(node: Node) -> None:
    node.start()
    assert node.daemon is not None
    [keeper] = map(int, Path(f"/proc/{node.daemon.pid}/task/{node.daemon.pid}/children").read_text().split())
    status = status_of(keeper)
    assert status["Uid"].split() == [str(pwd.getpwnam("tunfwd").pw_uid)] * 4
    assert [int(status[name], 16) for name in ("CapPrm", "CapEff", "CapInh", "CapAmb")] == [1 << 12] * 2 + [
        0
    ] * 2
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    node.kill()
    node.wait_for(lambda: not Path(f"/proc/{keeper}").exists(), TIME, "it ends with the daemon")


def test_the_control_group_is_the_only_other_one(node: Node) -> None:
    group = grp.getgrnam("users")
    node.configure({"control": {"group": group.gr_name}})
    node.start()
    assert node.daemon is not None
    assert status_of(node.daemon.pid)["Groups"] == str(group.gr_gid)
    socket_status = (node.folder / "control.sock").stat()
    assert (socket_status.st_gid, stat.S_IMODE(socket_status.st_mode)) == (group.gr_gid, 0o660)


def test_an_ordinary_user_with_net_admin(node: Node) -> None:
    """As from systemd's AmbientCapabilities; the interpreter may be readable for root alone."""
    start = (
        "import pyprctl\n"
        "from pyprctl import Cap, CapState\n"
        "import tunfwd.cli.daemon, tunfwd.daemon.main\n"
        "pyprctl.cap_set_ids(uid=65534, gid=65534, groups=[])\n"
        "CapState(permitted={Cap.NET_ADMIN}, effective={Cap.NET_ADMIN}).set_current()\n"
        "from tunfwd.cli.main import main\n"
        "main()\n"
    )
    for_all = 'mount -t tmpfs none /dev/net && mknod -m 666 /dev/net/tun c 10 200 && exec "$@"'
    os.chown(node.folder, 65534, 65534)
    with node.log_file.open("ab") as log:
        node.daemon = node.host.start(
            ["unshare", "--mount", "sh", "-c", for_all, "sh", sys.executable, "-c", start, "daemon"],
            env=os.environ | node.environment,
            stdout=log,
            stderr=log,
        )
    node.wait_for(lambda: node.cli("id", check=False).returncode == 0, START_TIME, "the daemon answers")
    status = status_of(node.daemon.pid)
    assert status["Uid"].split() == ["65534"] * 4
    assert [int(status[name], 16) for name in ("CapPrm", "CapEff", "CapInh", "CapAmb")] == [0] * 4
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    assert (node.folder / "state" / "identity.tox").stat().st_uid == 65534


def test_ports_below_1024_are_bound_all_the_same(node: Node) -> None:
    node.configure({"tox": {"udp_port": 443, "tcp_relay_port": 80}})
    node.start()
    assert node.identity()["udp_port"] == 443
    assert ":80 " in node.host.run(["ss", "-Hltn"]).stdout


def test_a_passphrase_and_a_configuration_of_root_alone(node: Node) -> None:
    passphrase = node.folder / "passphrase"
    passphrase.write_text("for root alone\n")
    passphrase.chmod(0o600)
    node.configure({"tox": {"passphrase_file": str(passphrase)}})
    node.config_file.chmod(0o600)
    node.start()
    assert node.stop() == 0
    assert (node.folder / "state" / "identity.tox").read_bytes().startswith(b"toxEsave")


def test_the_configuration_is_read_again(node: Node) -> None:
    """By the user that it became, confined as it is, from a new file in the place of the old one."""
    node.start()
    fresh = node.folder / "fresh.toml"
    fresh.write_text('[log]\nlevel = "debug"\n[network]\nmtu = 1400\n')
    fresh.replace(node.config_file)
    result = node.json("reload")
    assert (result["changed"], result["restart"]) == (["[log] level"], ["[network] mtu"])
    node.configure({"tox": {"bootsrap": "x"}})
    wrong = node.cli("reload", check=False)
    assert (wrong.returncode, wrong.stdout) == (7, "")
    assert "line 2: [tox] bootsrap is not known; did you mean 'bootstrap'?" in wrong.stderr
    node.configure({"log": {"level": "info"}})
    assert node.daemon is not None
    node.daemon.send_signal(signal.SIGHUP)
    node.wait_for(lambda: node.log.count("reloaded; changed: [log] level") == 2, TIME, "it is read again")
    node.config_file.chmod(0o600)  # root's alone
    unreadable = node.cli("reload", check=False)
    assert unreadable.returncode == 7
    assert "cannot be read: Permission denied" in unreadable.stderr
    assert node.stop() == 0


def test_nothing_is_imported_once_root_is_left(node: Node) -> None:
    """The interpreter may lie where only root reads, below /root; so may this program."""
    node.configure({"tox": {"bootstrap": [f"nowhere.invalid:33445:{'0' * 64}"]}})
    audit = (
        "import os, sys\n"
        "from tunfwd.daemon.process import handover\n"
        "leave, left = handover.leave_root, []\n"
        "def hook(event, arguments):\n"
        "    if left and event == 'import':\n"
        "        os.write(2, f'imports {arguments[0]}\\n'.encode())\n"
        "def leave_root(config):\n"
        "    leave(config)\n"
        "    left.append(True)\n"
        "sys.addaudithook(hook)\n"
        "handover.leave_root = leave_root\n"
        "sys.argv[0] = 'tunfwd'\n"
        "from tunfwd.cli.main import main\n"
        "main()\n"
    )
    with node.log_file.open("ab") as log:
        node.daemon = node.host.start(
            [sys.executable, "-c", audit, "daemon"], env=os.environ | node.environment, stdout=log, stderr=log
        )
    node.wait_for(lambda: node.cli("id", check=False).returncode == 0, START_TIME, "the daemon answers")
    node.wait_for(lambda: "nowhere.invalid" in node.log, TIME, "a name is looked up")
    for command in (
        "status",
        "doctor",
        "group create lan --public",
        "group list",
        "group leave lan",
        "ping x",
        "reload",
    ):
        node.cli(*command.split(), check=False)
    node.cli("friend", "add", "0" * 76, check=False)
    node.configure({"tox": {"bootsrap": "x"}})
    node.cli("reload", check=False)
    node.stop()
    assert "imports" not in node.log


def test_state_of_root_is_handed_over(net: Topology) -> None:
    """As an earlier version left it. A link in it leads to nothing that changes hands."""
    user = pwd.getpwnam("tunfwd")
    with tempfile.TemporaryDirectory(dir="/var/tmp") as place, folder_of_daemons() as folder:
        Path(place).chmod(0o755)
        state, secret = Path(place, "state"), Path(place, "secret")
        state.mkdir(mode=0o700)
        secret.write_text("root's")
        (state / "state.json").write_text('{"schema": 1}\n')
        (state / "link").symlink_to(secret)
        os.link(secret, state / "other-name")
        Path(place, "way").symlink_to(state)
        node = Node(net["eve"], folder)
        node.environment["TUNFWD_STATE_DIR"] = f"{place}/way"
        with node:
            for path in (state, state / "state.json", state / "identity.tox"):
                assert path.stat().st_uid == user.pw_uid, path
            assert secret.stat().st_uid == 0
        with node:  # and again
            pass


@pytest.mark.parametrize(
    ("user", "words"),
    [
        ("no-such-user", ["there is no user 'no-such-user'", "useradd --system", "[daemon] user"]),
        ("nobody", ["nobody is not a user of the daemon's own", "useradd --system"]),
        ("root", ["root is not a user of the daemon's own"]),
    ],
)
def test_a_user_that_it_cannot_become(node: Node, user: str, words: list[str]) -> None:
    node.configure({"daemon": {"user": user}})
    result = fails(node)
    assert result.returncode == 8
    assert len(result.stderr.splitlines()) == 1
    for word in words:
        assert word in result.stderr
    assert not (node.folder / "state").exists()
    assert "tunfwd0" not in links(node)


def test_a_state_directory_out_of_reach_is_said(node: Node) -> None:
    closed = node.folder / "closed"
    closed.mkdir(mode=0o700)
    node.environment["TUNFWD_STATE_DIR"] = str(closed / "state")
    result = fails(node)
    assert result.returncode == 8
    assert f"cannot reach {closed}/state" in result.stderr
    assert f"chmod o+x {closed}" in result.stderr


def test_a_deleted_device_ends_it(node: Node) -> None:
    node.start()
    node.host.run(["ip", "link", "del", "tunfwd0"])
    assert node.daemon is not None
    assert node.daemon.wait(60) == 1
    assert "tunfwd0" in node.log.splitlines()[-1]


@pytest.mark.parametrize(
    "damage",
    ["link set tunfwd0 down; link set tunfwd0 up", "addr flush dev tunfwd0", "link set tunfwd0 down"],
)
def test_what_others_do_to_the_device_is_put_back_and_said(node: Node, damage: str) -> None:
    node.start()
    assert "ok       device: tunfwd0 is up" in node.cli("doctor", check=False).stdout
    before = len(node.log)
    for step in damage.split("; "):
        node.host.run(["ip", *step.split()])

    def is_whole() -> bool:
        shown = node.host.run(["ip", "addr", "show", "dev", "tunfwd0"]).stdout
        return "10.77.0.1/16" in shown and "fd74:756e:6677::1/48" in shown and ",UP" in shown

    node.wait_for(is_whole, TIME, "the device is as it was")
    node.wait_for(lambda: "tunfwd0 was changed; put back: " in node.log[before:], TIME, "it is said")
    assert "ok       device: tunfwd0 is up" in node.cli("doctor", check=False).stdout


def test_doctor_looks_at_the_kernel(node: Node) -> None:
    node.start()
    node.host.run(["ip", "link", "add", "vpn0", "type", "veth"])
    try:
        node.host.run(["ip", "link", "set", "vpn0", "up"])
        node.host.run(["ip", "route", "add", "10.77.0.0/16", "dev", "vpn0", "table", "52"])
        node.host.run(["ip", "rule", "add", "lookup", "52", "pref", "100"])
        shown = node.cli("doctor", check=False).stdout
        assert "ERROR    device: tunfwd0: a rule or table leads 10.77.0.0/16 to vpn0 instead" in shown
        assert "ERROR    device: tunfwd0: 10.77.0.0/16 overlaps 10.77.0.0/16 on vpn0" in shown
    finally:
        node.host.run(["ip", "rule", "del", "pref", "100"])
        node.host.run(["ip", "link", "del", "vpn0"])


def test_nothing_leaves_by_the_default_route_after_kill_9(node: Node) -> None:
    gateway = ("default", "via", str(node.host.address - 1))
    node.host.run(["ip", "route", "add", *gateway])
    try:
        node.start()
        assert "dev tunfwd0" in node.host.run(["ip", "route", "get", "10.77.3.9"]).stdout
        node.kill()
        node.wait_for(lambda: "tunfwd0" not in links(node), TIME, "the device is gone")
        lookup = node.host.run(["ip", "route", "get", "10.77.3.9"], check=False)
        assert "No route to host" in lookup.stderr
        node.start()
        assert "dev tunfwd0" in node.host.run(["ip", "route", "get", "10.77.3.9"]).stdout
    finally:
        node.host.run(["ip", "route", "del", *gateway])


def test_two_daemons_in_one_namespace_have_prefixes_of_their_own(node: Node, net: Topology) -> None:
    with folder_of_daemons() as folder, Node(net["eve"], folder) as second:
        node.start()
        for each, prefix in (
            (second, IPv6Network("fd74:756e:6677::/48")),
            (node, IPv6Network("fd74:756e:6678::/48")),
        ):
            identity = each.identity()
            assert IPv6Address(identity["virtual_address6"]) in prefix
            lookup = each.host.run(["ip", "-6", "route", "get", str(prefix[0x77])]).stdout
            assert f"dev {identity['interface']}" in lookup
        assert node.identity()["virtual_address"] != second.identity()["virtual_address"]


def test_idle_costs_next_to_nothing(node: Node) -> None:
    """Without friends and without traffic: under 2 % of a core, once it has come to rest."""
    node.start()
    assert node.daemon is not None
    process = node.daemon.pid
    time.sleep(1)

    def rests() -> bool:
        before = ticks(process)
        time.sleep(3)
        used = (ticks(process) - before) / os.sysconf("SC_CLK_TCK")
        return used / 3 < 0.02

    eventually(rests, "it uses under 2 % of a core")


def ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def test_json_is_for_programs(node: Node) -> None:
    node.start()
    for command in ("id", "status", "friend list", "offers", "ports", "nodes", "doctor", "version"):
        document = json.loads(node.cli(*command.split(), "--json", check=False).stdout)  # doctor may fail
        assert document["schema"] == 1


def test_only_some_users_reach_contacts(node: Node) -> None:
    node.configure({"network": {"users": ["nobody"]}})
    node.start()
    ask = "import socket; socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('10.77.3.9', 80))"
    for uid, admitted in ((65534, True), (1235, False), (0, False)):
        command: list[str | Path] = [
            "setpriv",
            f"--reuid={uid}",
            "--clear-groups",
            "/usr/bin/python3",
            "-c",
            ask,
        ]
        assert (node.host.run(command, check=False).returncode == 0) == admitted, uid
    refused = node.cli("run", "--", "true", check=False)
    assert refused.returncode == 6
    assert "your programs do not reach contacts: [network] users does not name you" in refused.stderr
    node.stop()
    node.configure({"network": {"users": ["no-such-user"]}})
    result = fails(node)
    assert (result.returncode, result.stderr.splitlines()[-1]) == (
        8,
        "tunfwd: [network] users: there is no user 'no-such-user'",
    )

"""The command line around the commands: usage errors, finding the daemon, signals, failing output."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest
import trio

from tunfwd.cli.entry import AT_ONCE
from tunfwd.cli.main import COMMANDS, SUMMARIES, root
from tunfwd.common.errors import ConfigurationError, UserError
from tunfwd.config import paths
from tunfwd.daemon import main as daemon_main
from tunfwd.tox import version
from tunfwd.tox.binding.errors import ToxcoreUnusable
from tunfwd.tun import namespace, privileges

from . import samples

Run = Callable[..., Any]  # conftest.tunfwd
COMMAND = (sys.executable, "-m", "tunfwd.cli")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "missing command (see: tunfwd --help)"),
        (("stats",), "there is no command 'stats'; did you mean 'status'? (see: tunfwd --help)"),
        (("qqq",), "there is no command 'qqq' (see: tunfwd --help)"),
        (("restart",), "there is no command 'restart'; did you mean 'stop'? (see: tunfwd --help)"),
        (("--nope",), "no such option"),
        (("friend",), "missing command (see: tunfwd friend --help)"),
        (("status", "extra"), "got unexpected extra argument (extra) (see: tunfwd status --help)"),
        (("offer", "8080/tcp"), "missing option '--to' (see: tunfwd offer --help)"),
        (("offer", "8080/sctp", "--to", "a"), "'8080/sctp': the protocol is tcp or udp, as in 8080/udp"),
        (("offer", "web", "--to", "a"), "'web' is not a port: a port is a number from 1 to 65535"),
        (("offer", "1/tcp", "--to", "a", "--target", "h"), "'h' is not HOST:PORT"),
        (("offer", "1/tcp", "--to", "a", "--name", "a\nb"), "a name has no control or invisible characters"),
        (("offer", "1/tcp", "--to", "a", "--source", "me"), "'--source'"),
        (("offer", "1/tcp", "--to", "\udcff"), "to[0] is not valid Unicode text"),
        (("accept", "web", "--port", "0"), "0 is not a port"),
        (("friend", "add", "abc"), "'abc' is not a Tox address: 76 hex digits"),
        (("friend", "add", "0" * 75 + "1"), "has a wrong digit"),
        (("friend", "accept", "AB", "--name", "group:x"), "a contact's name cannot contain"),
        (("ping", "alice", "-c", "0"), "'-c' / '--count'"),
    ],
)
def test_usage_errors(daemon: Any, tunfwd: Run, arguments: tuple[str, ...], message: str) -> None:
    result = tunfwd(*arguments)
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("tunfwd: ")
    assert result.err.count("\n") == 1
    assert message in result.err
    assert daemon.calls == []


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help(tunfwd: Run, command: str) -> None:
    result = tunfwd(*command.split(), "--help")
    assert result.code == 0
    assert result.out.startswith("Usage: tunfwd")
    assert result.err == ""


def test_help_names_every_command(tunfwd: Run) -> None:
    shown = tunfwd("-h").out
    assert all(f"  {name} " in shown for name in COMMANDS)
    assert "..." not in shown.split("Commands:")[1]  # every summary in full


def test_no_daemon(tunfwd: Run, environment: dict[str, str]) -> None:
    result = tunfwd("status")
    assert (result.code, result.out) == (3, "")
    assert result.err == (
        f"tunfwd: no daemon runs (nothing answers at {environment['TUNFWD_SOCKET']}); "
        "start one with: tunfwd daemon\n"
    )


STATUS = {"network": "offline", "contacts": [], "drops": {}}
CONTACT = samples.CONTACT | {"name": "bücher 日本", "features": ["link"]}


def test_where_the_daemon_is_looked_for(daemon: Any, tunfwd: Run, tmp_path: Path) -> None:
    daemon.answers["status"] = STATUS
    here, nowhere = str(daemon.socket), str(tmp_path / "nowhere.sock")
    config = tmp_path / "config.toml"
    config.write_text(f'[control]\nsocket = "{here}"\n')
    assert tunfwd("--socket", here, "status", TUNFWD_SOCKET=nowhere).code == 0
    assert tunfwd("--config", str(config), "status", TUNFWD_SOCKET="").code == 0
    assert tunfwd("status", TUNFWD_SOCKET="", TUNFWD_CONFIG=str(config)).code == 0
    assert tunfwd("status", TUNFWD_SOCKET=nowhere, TUNFWD_CONFIG=str(config)).code == 3
    result = tunfwd("--config", str(tmp_path / "none.toml"), "status", TUNFWD_SOCKET="")
    assert (result.code, "there is no such file" in result.err) == (7, True)
    config.write_text("[control]\nsocket = 1\n")
    result = tunfwd("--config", str(config), "status", TUNFWD_SOCKET="")
    assert result.code == 7
    assert result.err == f"tunfwd: {config}, line 2: [control] socket must be a string, not a whole number\n"


def test_a_user_finds_their_own_daemon_first(
    tunfwd: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(paths, "SYSTEM", paths.SYSTEM._replace(socket=str(tmp_path / "system.sock")))
    own = tmp_path / "tunfwd" / "control.sock"
    result = tunfwd("status", TUNFWD_SOCKET="")
    assert result.code == 3
    assert f"nothing answers at {own} or {tmp_path / 'system.sock'}" in result.err
    config = tmp_path / "home" / ".config" / "tunfwd" / "config.toml"
    config.parent.mkdir(parents=True)
    config.write_text(f'[control]\nsocket = "{tmp_path}/configured.sock"\n')
    assert f"nothing answers at {tmp_path}/configured.sock or " in tunfwd("status", TUNFWD_SOCKET="").err
    config.write_text("[tox]\nudp = 1\n")  # what is wrong elsewhere keeps nobody from asking
    assert f"nothing answers at {own} or " in tunfwd("status", TUNFWD_SOCKET="").err
    config.write_text("[tox\n")
    assert tunfwd("status", TUNFWD_SOCKET="").code == 7


def test_a_socket_that_is_not_the_daemons_is_not_passed_over(
    tunfwd: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whoever may not use their daemon hears of that, not of the next place that was tried."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    result = tunfwd("status", TUNFWD_SOCKET="", XDG_RUNTIME_DIR="", XDG_STATE_HOME=f"{tmp_path}/{'x' * 200}")
    assert (result.code, "is longer than 107 bytes" in result.err) == (7, True)


def test_a_daemon_of_another_version(daemon: Any, tunfwd: Run) -> None:
    daemon.answers["status"] = {"contacts": "none"}
    result = tunfwd("status")
    assert (result.code, "is it another version?" in result.err) == (1, True)


def test_output_that_cannot_be_written(environment: dict[str, str]) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*COMMAND, "version"],
            env=environment,
            stdout=full,
            stderr=subprocess.PIPE,
            timeout=30,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr == b"tunfwd: cannot write the output: No space left on device\n"


def test_a_reader_that_goes_away_is_no_error(daemon: Any, environment: dict[str, str]) -> None:
    contact: dict[str, object] = {
        "name": "x" * 60,
        "public_key": "",
        "kind": "friend",
        "via": "friend",
        "address": "10.77.0.2",
    }
    contact |= {"address6": "", "link": "direct", "offline_seconds": None, "ports": 0, "connections": 0}
    contact |= {"tx_bytes": 0, "rx_bytes": 0, "extended": False, "features": []}
    daemon.answers["status"] = STATUS | {"contacts": [contact] * 5000}
    with subprocess.Popen(
        [*COMMAND, "status"], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as command:
        assert command.stdout is not None
        assert command.stderr is not None
        command.stdout.read(10)
        command.stdout.close()
        assert command.wait(30) == -signal.SIGPIPE
        assert b"Traceback" not in command.stderr.read()


def test_a_daemon_that_hangs_up_is_an_error_not_a_signal(environment: dict[str, str]) -> None:
    """SIGPIPE is for stdout alone."""
    code = (
        "import socket, sys\n"
        "s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen()\n"
        "print(flush=True); p, _ = s.accept(); p.close(); sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, environment["TUNFWD_SOCKET"]],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as rude:
        assert rude.stdout is not None
        rude.stdout.readline()
        done = subprocess.run(
            [*COMMAND, "status"], env=environment, capture_output=True, timeout=30, check=False
        )
        rude.communicate(timeout=10)
    assert done.returncode == 1
    assert done.stderr.startswith(b"tunfwd: the")


def test_interrupted(daemon: Any, environment: dict[str, str]) -> None:
    """Ctrl-C in the middle of a call: ends by the signal, without a word."""

    def slow(params: dict[str, object]) -> dict[str, object]:
        time.sleep(0.5)
        return {"contact": "alice", "seconds": 1.0, "path": "direct"}

    daemon.answers["ping"] = slow
    with subprocess.Popen(
        [*COMMAND, "ping", "alice", "-c", "100"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as command:
        while not daemon.calls:
            time.sleep(0.02)
        command.send_signal(signal.SIGINT)
        out, err = command.communicate(timeout=30)
    assert (command.returncode, out, err) == (-signal.SIGINT, b"", b"\n")  # below the ^C


def test_names_that_the_terminal_cannot_show(daemon: Any, process: Run) -> None:
    daemon.answers["group.leave"] = {
        "group": {
            "name": "日本",
            "id": "",
            "kind": "group",
            "state": "online",
            "public": False,
            "members": 0,
            "reason": None,
            "inviter": None,
        }
    }
    result = process("group", "leave", "x", LC_ALL="C", PYTHONCOERCECLOCALE="0", PYTHONUTF8="0")
    assert (result.code, result.out) == (0, "left \\u65e5\\u672c\n")
    assert json.loads(process("group", "leave", "x", "--json").out)["group"]["name"] == "日本"


def test_completion(daemon: Any, process: Run) -> None:
    daemon.answers["status"] = STATUS | {
        "contacts": [
            {
                "name": name,
                "link": "direct",
                "public_key": "",
                "kind": "friend",
                "via": "friend",
                "address": "",
            }
            | {"address6": "", "offline_seconds": None, "ports": 0, "connections": 0, "tx_bytes": 0}
            | {"rx_bytes": 0, "extended": False, "features": []}
            for name in ("alice", "alan", "bob")
        ]
    }
    shell = {"_TUNFWD_COMPLETE": "bash_complete", "COMP_WORDS": "tunfwd ping al", "COMP_CWORD": "2"}
    assert process(**shell).out == "plain,alice\nplain,alan\n"
    assert process(**shell | {"TUNFWD_SOCKET": "/nowhere"}).out.strip() == ""
    commands = process(_TUNFWD_COMPLETE="bash_complete", COMP_WORDS="tunfwd st", COMP_CWORD="1").out
    assert commands == "plain,stop\nplain,status\n"


def test_offers_are_completed_by_name_or_by_id(daemon: Any, process: Run) -> None:
    def completed(words: str) -> str:
        count = str(len(words.split(" ")) - 1)
        out: str = process(_TUNFWD_COMPLETE="bash_complete", COMP_WORDS=words, COMP_CWORD=count).out
        return out

    entry = {"contact": "alice", "direction": "server", "protocol": "tcp", "port": 80, "origin": "remote"}
    entry |= {"state": "pending", "target": None}
    daemon.answers["offer.list"] = {
        "offers": [entry | {"id": "1a2b3c4d", "name": "web"}, entry | {"id": "1f2b3c4d", "name": ""}]
    }
    assert completed("tunfwd accept ") == "plain,web\nplain,1f2b3c4d\n"
    assert completed("tunfwd kill w") == "plain,web\n"
    daemon.answers["offer.list"] = {"offers": "none"}
    assert completed("tunfwd deny 1") == "\n"


LOADED = (  # what a run of the script has loaded, but for what Python and who measures this had before
    "import os, sys\n"
    "os._exit = sys.exit\n"
    "before = set(sys.modules)\n"
    "sys.argv[1:] = {arguments}\n"
    "from tunfwd.cli.entry import main\n"
    "try: main()\n"
    "except SystemExit as end: assert end.code == 0, end.code\n"
    "print(*sorted(set(sys.modules) - before), file=sys.stderr)\n"
)


def loaded(environment: dict[str, str], *arguments: str) -> set[str]:
    code = LOADED.format(arguments=list(arguments))
    run = subprocess.run(
        [sys.executable, "-c", code], env=environment, timeout=30, check=False, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    return set(run.stderr.splitlines()[-1].split())


def test_client_commands_load_neither_the_engine_nor_tox(environment: dict[str, str]) -> None:
    heavy = {"trio", "cffi", "pyroute2", "pytun", "asyncio", "segno", "tomllib"}
    assert not heavy & loaded(environment, "version")


def test_help_and_completion_load_no_command(environment: dict[str, str]) -> None:
    assert "tunfwd.cli.offers" not in loaded(environment, "--help")
    completing = {"_TUNFWD_COMPLETE": "bash_complete", "COMP_WORDS": "tunfwd of", "COMP_CWORD": "1"}
    run = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", "from tunfwd.cli.entry import main; main()"],
        env=environment | completing,
        timeout=30,
        check=False,
        capture_output=True,
        text=True,
    )
    assert run.stdout.splitlines() == ["plain,offer", "plain,offers"]
    assert "tunfwd.cli.main" in run.stderr
    assert "tunfwd.cli.offers" not in run.stderr


def test_help_has_of_each_command_what_it_says_itself() -> None:
    context = click.Context(root)
    commands = {name: root.get_command(context, name) for name in COMMANDS}
    assert {
        name: command.get_short_help_str(200) for name, command in commands.items() if command
    } == SUMMARIES


def test_status_loads_what_it_uses_and_nothing_else(
    daemon: Any, environment: dict[str, str], tmp_path: Path
) -> None:
    daemon.answers["status"] = STATUS | {"network": "online", "contacts": [CONTACT]}
    modules = loaded(environment, "status")
    assert {name for name in modules if name.partition(".")[0] not in sys.stdlib_module_names} == {
        "tunfwd",
        "tunfwd.cli",
        "tunfwd.cli.entry",
        "tunfwd.cli.glance",
        "tunfwd.cli.outcome",
        "tunfwd.cli.output",
        "tunfwd.cli.session",
        "tunfwd.common",
        "tunfwd.common.errors",
        "tunfwd.common.schema",
        "tunfwd.common.text",
        "tunfwd.config",
        "tunfwd.config.paths",
        "tunfwd.control",
        "tunfwd.control.client",
        "tunfwd.control.glance",
        "tunfwd.control.protocol",
    }
    slow = {
        "inspect",
        "dataclasses",
        "tomllib",
        "asyncio",
        "logging",
        "datetime",
        "uuid",
        "difflib",
        "subprocess",
        "pathlib",
        "urllib",
        "ipaddress",
        "shutil",
    }
    assert not slow & modules


@pytest.mark.parametrize("options", [(), ("--json",)])
@pytest.mark.parametrize(
    "answer",
    [
        STATUS,
        STATUS | {"network": "online", "contacts": [CONTACT]},
        UserError("denied", "something\nis \x1b[31mwrong"),
        {},
    ],
)
def test_what_is_answered_at_once_is_answered_alike(
    daemon: Any, tunfwd: Run, process: Run, answer: Any, options: tuple[str, ...]
) -> None:
    daemon.answers["status"] = answer
    assert process("status", *options) == tunfwd("status", *options)


def test_only_plain_questions_are_answered_at_once(daemon: Any, tunfwd: Run, process: Run) -> None:
    for name in AT_ONCE:
        assert name in COMMANDS
        for arguments in ([name, "--help"], [name, "--nope"], [name, "--json", "x"]):
            assert process(*arguments) == tunfwd(*arguments)


def test_doctor_without_a_daemon(tunfwd: Run, tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text("[tox]\nudp = 1\n")
    result = tunfwd("--config", str(config), "doctor", "--json")
    shown = json.loads(result.out)
    checks = {check["name"]: check for check in shown["checks"]}
    assert (result.code, shown["ok"]) == (1, False)
    assert checks["configuration"]["level"] == "error"
    assert "line 2: [tox] udp must be true or false" in checks["configuration"]["detail"]
    assert checks["daemon"]["level"] == "error"
    assert {"libtoxcore", "tun"} <= checks.keys()


@pytest.mark.parametrize("running", [True, False])
def test_doctor_tells_of_libtoxcore_only_where_no_daemon_has_found_it(
    daemon: Any, tunfwd: Run, monkeypatch: pytest.MonkeyPatch, running: bool
) -> None:
    def checks() -> dict[str, tuple[str, str]]:
        elsewhere = {} if running else {"TUNFWD_SOCKET": "/nowhere/x.sock"}
        shown = json.loads(tunfwd("doctor", "--json", **elsewhere).out)
        return {check["name"]: (check["level"], check["detail"]) for check in shown["checks"]}

    daemon.answers["version"] = {"version": "9.9", "compiled": False, "toxcore": "0.2.23"}
    daemon.answers["doctor"] = {"checks": []}
    monkeypatch.setattr(privileges, "check", lambda: None)
    for found, expected in (
        (version.Report((0, 2, 23), ()), ("ok", "0.2.23")),
        (version.Report((0, 2, 20), ()), ("warning", "libtoxcore 0.2.20 has a known critical hole")),
        (version.Report((0, 2, 18), ("groups",)), ("error", "libtoxcore 0.2.18 lacks groups")),
    ):
        monkeypatch.setattr(version, "inspect", lambda found=found: found)
        shown = checks()
        if running:
            assert not {"libtoxcore", "tun"} & shown.keys()
            continue
        level, detail = shown["libtoxcore"]
        assert (level, detail[: len(expected[1])]) == expected
        assert shown["tun"] == ("ok", "/dev/net/tun and CAP_NET_ADMIN are there")


def test_doctor_goes_on_where_nothing_is_right(
    tunfwd: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def unusable() -> object:
        raise ToxcoreUnusable("libtoxcore cannot be found")

    def unprivileged() -> None:
        raise privileges.PrivilegeError("CAP_NET_ADMIN is missing")

    monkeypatch.setattr(version, "inspect", unusable)
    monkeypatch.setattr(privileges, "check", unprivileged)
    monkeypatch.setattr(namespace, "obstacle", lambda: "user namespaces are refused")
    config = tmp_path / "config.toml"
    config.write_text("[control]\nsocket = 1\n")
    result = tunfwd("--config", str(config), "doctor", TUNFWD_SOCKET="")
    assert result.code == 1
    assert [line.split(":")[0].split() for line in result.out.splitlines()] == [
        ["ERROR", "libtoxcore"],
        ["ERROR", "tun"],
        ["ERROR", "configuration"],
        ["ERROR", "daemon"],
        ["warning", "run"],
    ]


@pytest.mark.parametrize(
    ("local", "meaning"),
    [("true", "only friends in the local network are found"), ("false", "nobody is found")],
)
def test_doctor_says_what_it_means_that_no_node_is_known(
    tunfwd: Run, tmp_path: Path, local: str, meaning: str
) -> None:
    config = tmp_path / "config.toml"
    config.write_text(f"[tox]\nbootstrap = []\nlocal_discovery = {local}\n")
    assert f"names no node: {meaning}" in tunfwd("--config", str(config), "doctor").out


def test_doctor_with_a_daemon(daemon: Any, tunfwd: Run) -> None:
    daemon.answers["version"] = {"version": "9.9", "compiled": False, "toxcore": "0.2.20"}
    daemon.answers["doctor"] = {
        "checks": [{"name": "tox network", "ok": False, "level": "error", "detail": "not connected"}]
    }
    daemon.answers["id"], daemon.answers["ports"] = samples.IDENTITY, {"ports": []}
    result = tunfwd("doctor")
    assert result.code == 1
    assert "bootstrap" not in result.out  # the daemon knows what its own configuration says
    assert "ok     daemon: runs, version 9.9\n" in result.out
    assert "ERROR  tox network: not connected\n" in result.out
    assert f"ok     control socket: {daemon.socket} (mode 0600)\n" in result.out
    daemon.socket.chmod(0o666)
    assert "is open to everyone (mode 0666)" in tunfwd("doctor").out


async def test_a_daemon_that_cannot_start(environment: dict[str, str], tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text("[tox\n")
    done = await trio.run_process(
        [*COMMAND, "--config", str(config), "daemon"],
        env=environment,
        capture_stdout=True,
        capture_stderr=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (7, b"")
    assert done.stderr.startswith(f"tunfwd: {config}, line 1: expected ']'".encode())


def test_the_daemon_gets_what_the_options_say(tunfwd: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The socket goes by the environment, which the configuration gives way to."""
    seen = SimpleNamespace(given=[])

    def run(config: str | None, *, rootless: bool) -> int:
        seen.given.append((config, os.environ.get("TUNFWD_SOCKET"), rootless))
        return 0

    monkeypatch.setattr(daemon_main, "run", run)
    before = signal.getsignal(signal.SIGPIPE)
    try:
        assert tunfwd("--socket", "/run/x.sock", "--config", "/etc/x.toml", "daemon").code == 0
        assert tunfwd("daemon", "--rootless", TUNFWD_SOCKET="/run/y.sock").code == 0
        assert signal.getsignal(signal.SIGPIPE) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGPIPE, before)
    assert seen.given == [("/etc/x.toml", "/run/x.sock", False), (None, "/run/y.sock", True)]


def test_what_the_daemon_cannot_do_without_is_one_line(tunfwd: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(config: str | None, *, rootless: bool) -> int:
        raise ConfigurationError("[tox] udp_port or tcp_relay_port is in use")

    monkeypatch.setattr(daemon_main, "run", run)
    result = tunfwd("daemon")
    assert (result.code, result.err) == (7, "tunfwd: [tox] udp_port or tcp_relay_port is in use\n")

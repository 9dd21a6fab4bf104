"""The command line around the commands: usage errors, finding the daemon, signals, failing output."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from tunfwd.cli.main import COMMANDS

Run = Callable[..., Any]  # conftest.tunfwd
COMMAND = (sys.executable, "-m", "tunfwd.cli")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "missing command (see: tunfwd --help)"),
        (("stats",), "there is no command 'stats'; did you mean 'status'? (see: tunfwd --help)"),
        (("qqq",), "there is no command 'qqq' (see: tunfwd --help)"),
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


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_another_user_finds_their_own_daemon_first(tmp_path_factory: pytest.TempPathFactory) -> None:
    """As nobody: without a daemon of their own, the system's is tried too."""
    runtime = tmp_path_factory.mktemp("runtime")
    environment = {"HOME": "/nonexistent", "XDG_RUNTIME_DIR": str(runtime), "PATH": os.environ["PATH"]}
    for parent in (runtime, *runtime.parents):
        if parent.is_relative_to("/tmp") and parent != Path("/tmp"):
            parent.chmod(0o755)
    code = (
        "import os\n"
        "from tunfwd.cli.session import Session\n"
        "os.setgid(65534); os.setuid(65534)\n"
        "print(*Session(None, None).sockets(), sep='\\n')\n"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=30, check=True
    )
    assert shown.stdout == f"{runtime}/tunfwd/control.sock\n/run/tunfwd/control.sock\n"


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


def test_names_that_the_terminal_cannot_show(daemon: Any, tunfwd: Run) -> None:
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
    result = tunfwd("group", "leave", "x", LC_ALL="C", PYTHONCOERCECLOCALE="0", PYTHONUTF8="0")
    assert (result.code, result.out) == (0, "left \\u65e5\\u672c\n")
    assert json.loads(tunfwd("group", "leave", "x", "--json").out)["group"]["name"] == "日本"


def test_completion(daemon: Any, tunfwd: Run) -> None:
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
    assert tunfwd(**shell).out == "plain,alice\nplain,alan\n"
    assert tunfwd(**shell | {"TUNFWD_SOCKET": "/nowhere"}).out.strip() == ""
    commands = tunfwd(_TUNFWD_COMPLETE="bash_complete", COMP_WORDS="tunfwd st", COMP_CWORD="1").out
    assert commands == "plain,status\n"


def test_client_commands_load_neither_the_engine_nor_tox(environment: dict[str, str]) -> None:
    code = (
        "import sys\n"
        "sys.argv[1:] = ['version']\n"
        "from tunfwd.cli.main import main\n"
        "try: main()\n"
        "except SystemExit as end: assert end.code == 0, end.code\n"
        "heavy = {'trio', 'cffi', 'pyroute2', 'pytun', 'asyncio', 'tabulate', 'tomllib'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], env=environment, timeout=30, check=True, capture_output=True)


def test_doctor_without_a_daemon(tunfwd: Run, tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text("[tox]\nudp = 1\n")
    result = tunfwd("--config", str(config), "doctor", "--json")
    shown = json.loads(result.out)
    checks = {check["name"]: check for check in shown["checks"]}
    assert (result.code, shown["ok"]) == (1, False)
    assert checks["configuration"]["level"] == "error"
    assert "line 2: [tox] udp must be true or false" in checks["configuration"]["detail"]
    assert checks["daemon"]["level"] == "warning"
    assert {"libtoxcore", "tun"} <= checks.keys()


def test_doctor_with_a_daemon(daemon: Any, tunfwd: Run) -> None:
    daemon.answers["version"] = {"version": "9.9", "compiled": False, "toxcore": "0.2.20"}
    daemon.answers["doctor"] = {
        "checks": [{"name": "tox network", "ok": False, "level": "error", "detail": "not connected"}]
    }
    result = tunfwd("doctor")
    assert result.code == 1
    assert "ok       daemon: runs, version 9.9\n" in result.out
    assert "ERROR    tox network: not connected\n" in result.out
    assert f"ok       control socket: {daemon.socket} (mode 0600)\n" in result.out
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

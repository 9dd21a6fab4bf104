"""Ordinary programs that know nothing of tunfwd: web, ssh, iperf3, DNS."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from netns.topology import Host

from .conftest import Forwards
from .hosts import bytes_of, eventually

pytestmark = [pytest.mark.netns, pytest.mark.toxnet]

MB = 1_000_000
STOP_TIME = 20.0  # s for a program to end


@contextmanager
def running(host: Host, command: Sequence[str | Path], listening: str, folder: Path) -> Iterator[Path]:
    """A program that serves, from when `ss` shows the socket; yields the file with all that it printed."""
    log = folder / f"{Path(command[0]).name}.log"
    with log.open("wb") as output:
        process = host.start(command, cwd=folder, stdout=output, stderr=output)
    try:

        def listens() -> bool:
            assert process.poll() is None, log.read_text()
            return bool(host.run(["ss", "-Hln", *listening.split(maxsplit=1)]).stdout)

        eventually(listens, f"{command[0]} listens")
        yield log
    finally:
        process.terminate()
        try:
            process.wait(STOP_TIME)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def ssh_server(
    host: Host, port: int, folder: Path, *, settings: str = "", allow: str = "", dns: Path | None = None
) -> Iterator[Path]:
    """sshd, which lets in who has the key `user` in the folder; yields its log.

    `allow`: options of the authorized key. `dns`: a file that it takes for /etc/resolv.conf.
    """
    for key in ("host", "user"):
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / key], check=True, timeout=60
        )
    (folder / "authorized").write_text(f"{allow} {(folder / 'user.pub').read_text()}".lstrip())
    (folder / "sshd_config").write_text(f"""
Port {port}
HostKey {folder}/host
AuthorizedKeysFile {folder}/authorized
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
Subsystem sftp internal-sftp
{settings}
""")
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # where sshd insists on chrooting
    command: list[str | Path] = ["/usr/sbin/sshd", "-D", "-e", "-f", folder / "sshd_config"]
    with running(
        host, command if dns is None else asking(dns, *command), f"-t sport = :{port}", folder
    ) as log:
        yield log


def ssh_options(name: str, port: int, folder: Path) -> list[str]:
    """What `ssh` takes to log in at that server, where it is called `name`."""
    (folder / "known").write_text(f"[{name}]:{port} {(folder / 'host.pub').read_text()}")
    options = ["-F", "none", "-i", f"{folder}/user", "-o", f"UserKnownHostsFile={folder}/known"]
    return [*options, "-o", "StrictHostKeyChecking=yes", "-o", "BatchMode=yes", "-o", "ConnectTimeout=30"]


def asking(file: Path, *command: str | Path) -> list[str | Path]:
    """The command, which takes this file for /etc/resolv.conf."""
    mount = f'mount --bind {file} "$(realpath /etc/resolv.conf)" && exec "$@"'
    return ["unshare", "--mount", "sh", "-c", mount, "sh", *command]


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@pytest.mark.timeout(400)
def test_web_server(forward: Forwards, tmp_path: Path) -> None:
    """100 MB down and 30 MB up, compared by hash; 20 downloads at once; who asked is in the server's log."""
    port = forward()
    using, serving = port.using.host, port.serving.host
    site, uploads = tmp_path / "site", tmp_path / "uploads"
    site.mkdir()
    uploads.mkdir()
    for folder in (tmp_path, *tmp_path.parents[:2], site, uploads):
        folder.chmod(0o755)
    large = bytes_of(5, 100 * MB)
    (site / "large").write_bytes(large)
    for number in range(20):
        (site / f"small{number}").write_bytes(bytes_of(number, 200_000))
    (tmp_path / "nginx.conf").write_text(f"""
daemon off; pid {tmp_path}/nginx.pid; error_log stderr; user root; worker_processes 1;
events {{ worker_connections 128; }}
http {{
    access_log {tmp_path}/access.log;
    client_body_temp_path {tmp_path}/body; proxy_temp_path {tmp_path}/p; fastcgi_temp_path {tmp_path}/f;
    uwsgi_temp_path {tmp_path}/u; scgi_temp_path {tmp_path}/s;
    client_max_body_size 0;
    server {{
        listen {port.port};
        root {site};
        location /up/ {{ alias {uploads}/; dav_methods PUT; }}
    }}
}}
""")
    command: list[str | Path] = ["nginx", "-p", tmp_path, "-c", tmp_path / "nginx.conf"]
    url = f"http://{port.address}:{port.port}"
    with running(serving, command, f"-t sport = :{port.port}", tmp_path):
        got = tmp_path / "got"
        using.run(["curl", "-sSf", "--max-time", "90", "-o", got, f"{url}/large"], timeout=95)
        assert digest(got) == digest(site / "large")

        part = tmp_path / "part"
        part.write_bytes(large[: 30 * MB])
        using.run(["curl", "-sSf", "--max-time", "90", "-T", part, f"{url}/up/part"], timeout=95)
        assert (
            hashlib.sha256((uploads / "part").read_bytes()).digest()
            == hashlib.sha256(part.read_bytes()).digest()
        )

        curl = [
            "curl",
            "-sSf",
            "--max-time",
            "90",
            "--no-progress-meter",
            "--parallel",
            "--parallel-immediate",
        ]
        curl += ["--parallel-max", "20", "-o", f"{tmp_path}/small#1", f"{url}/small[0-19]"]
        using.run(curl, timeout=95)
        for number in range(20):
            assert (tmp_path / f"small{number}").read_bytes() == bytes_of(number, 200_000)

        caller = port.serving.contact(port.using.name)["address"]

        def lines() -> list[str]:
            return (tmp_path / "access.log").read_text().splitlines()

        eventually(lambda: len(lines()) >= 22, "all is in the log")
        assert len(lines()) == 22
        assert all(line.startswith(f"{caller} ") for line in lines())


def test_ssh(forward: Forwards, tmp_path: Path) -> None:
    """The server speaks first, then packets of all sizes go both ways; a key logs in; scp copies."""
    port = forward()
    using, serving = port.using.host, port.serving.host
    with ssh_server(serving, port.port, tmp_path):
        options = ssh_options(port.address, port.port, tmp_path)
        ssh = ["ssh", *options, "-p", f"{port.port}", f"root@{port.address}"]
        told = using.run(
            [*ssh, "echo $SSH_CONNECTION; cat"], input="typed here", stdin=None, timeout=60
        ).stdout
        connection, typed = told.splitlines()
        assert connection.split()[0] == port.serving.contact(port.using.name)["address"]
        assert typed == "typed here"
        assert using.run([*ssh, "exit 7"], check=False, timeout=60).returncode == 7

        (tmp_path / "file").write_bytes(bytes_of(6, 3 * MB))
        there = f"root@{port.address}:{tmp_path}/copy"
        scp = ["scp", "-q", *options, "-P", f"{port.port}"]
        using.run([*scp, tmp_path / "file", there], timeout=60)
        using.run([*scp, there, tmp_path / "back"], timeout=60)
        assert (tmp_path / "back").read_bytes() == bytes_of(6, 3 * MB)


def test_iperf3(forward: Forwards, tmp_path: Path) -> None:
    """TCP both ways, and UDP: control over TCP, datagrams over UDP, at one port number."""
    port = forward("tcp", port=5201)
    forward("udp", port=5201)

    def measure(*arguments: str) -> dict[str, dict[str, float]]:
        command = ["iperf3", "-J", "-c", port.address, "-t", "2", *arguments]
        # A server for each: between two tests iperf3 closes its listener, and resets who came too early.
        with running(port.serving.host, ["iperf3", "-s"], "-t sport = :5201", tmp_path):
            result = port.using.host.run(command, timeout=60, check=False)
        answer = json.loads(result.stdout)
        assert "error" not in answer, answer["error"]
        end: dict[str, dict[str, float]] = answer["end"]
        return end

    for direction in ((), ("-R",)):
        end = measure(*direction)
        assert end["sum_received"]["bytes"] > MB / 10  # how fast it is, is for the benchmark
    for direction in ((), ("-R",)):
        lost: list[float] = []
        while not lost or (min(lost) > 2 and len(lost) < 4):  # %; a busy machine loses more now and then
            end = measure("-u", "-b", "5M", "-l", "1200", *direction)
            assert end["sum"]["packets"] > 500
            lost.append(end["sum"]["lost_percent"])
        assert min(lost) < 2


def test_name_server(forward: Forwards, tmp_path: Path) -> None:
    """dig by UDP and by TCP; a long answer comes truncated by UDP, and whole by TCP."""
    udp = forward("udp")
    forward("tcp", port=udp.port)
    words = [f"--txt-record=long.test,{'x' * 200}{number}" for number in range(20)]
    command = ["dnsmasq", "--keep-in-foreground", "--user=root", "--pid-file=", "--conf-file=/dev/null"]
    command += [
        "--no-resolv",
        "--no-hosts",
        f"--port={udp.port}",
        "--host-record=printer.test,192.0.2.17",
        *words,
    ]

    def dig(*arguments: str) -> str:
        question = ["dig", f"@{udp.address}", "-p", f"{udp.port}", "+tries=5", "+time=5", *arguments]
        return udp.using.host.run(question, timeout=60).stdout.strip()

    with running(udp.serving.host, command, f"-u sport = :{udp.port}", tmp_path):
        for _ in range(20):
            assert dig("+short", "printer.test") == "192.0.2.17"
        assert dig("+short", "+tcp", "printer.test") == "192.0.2.17"
        assert " tc" in dig("+ignore", "long.test", "TXT")
        assert len(dig("+short", "long.test", "TXT").splitlines()) == 20


@pytest.mark.parametrize("kind", ["python's own", "netcat"])
def test_small_servers(forward: Forwards, tmp_path: Path, kind: str) -> None:
    port = forward()
    if kind == "netcat":
        with running(
            port.serving.host,
            ["sh", "-c", f"echo hello | nc -lN {port.port}"],
            f"-t sport = :{port.port}",
            tmp_path,
        ):
            time.sleep(0.1)
            answer = port.using.host.run(["nc", "-w", "30", port.address, f"{port.port}"], timeout=60)
            assert answer.stdout == "hello\n"
    else:
        (tmp_path / "file").write_bytes(os.urandom(100_000))
        command = ["python3", "-m", "http.server", f"{port.port}"]
        with running(port.serving.host, command, f"-t sport = :{port.port}", tmp_path):
            url = f"http://{port.address}:{port.port}/file"
            port.using.host.run(["curl", "-sSf", "--max-time", "30", "-o", tmp_path / "got", url])
            assert (tmp_path / "got").read_bytes() == (tmp_path / "file").read_bytes()


@pytest.mark.parametrize("source", ["peer", "host"])
def test_tftp(forward: Forwards, tmp_path: Path, source: str) -> None:
    """Each file is sent from a port of its own; several files by one client, both ways."""
    port = forward("udp", source=source)
    using, serving = port.using.host, port.serving.host
    files = tmp_path / "files"
    files.mkdir()
    files.chmod(0o777)
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    for name in ("one", "two"):
        (files / name).write_bytes(bytes_of(len(name), 200_000))
    (tmp_path / "three").write_bytes(bytes_of(3, 100_000))
    server = ["in.tftpd", "--listen", "--foreground", "--secure", "--create", "--permissive", "-4"]
    server += ["--user", "root", "--address", f"0.0.0.0:{port.port}", files]  # type: ignore[list-item]
    commands = tmp_path / "commands"
    commands.write_text("get one\nget two\nput three\nquit\n")
    with running(serving, server, f"-u sport = :{port.port}", tmp_path):
        client = ["tftp", "-m", "binary", port.address, str(port.port)]
        with commands.open() as typed:
            using.run(client, cwd=tmp_path, stdin=typed, timeout=60)
        for name in ("one", "two"):
            assert digest(tmp_path / name) == digest(files / name)
        assert digest(tmp_path / "three") == digest(files / "three")

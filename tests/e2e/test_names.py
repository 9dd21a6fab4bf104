"""One address for each host, itself included, and names for it: ordinary programs and real resolvers."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from netns.topology import Host

from .conftest import Forward, Forwards
from .hosts import TcpService, bytes_of, echo, eventually
from .test_programs import running

pytestmark = [pytest.mark.netns, pytest.mark.toxnet]


def test_ftp_passive_mode(forward: Forwards, tmp_path: Path) -> None:
    """The server says where its data port is: at the address that it has at the other end, too."""
    control = forward()
    data = [forward() for _ in range(2)]
    using, serving = control.using.host, control.serving.host
    site = tmp_path / "site"
    site.mkdir(mode=0o755)
    (site / "file").write_bytes(bytes_of(3, 2_000_000))
    low, high = sorted(port.port for port in data)
    assert high == low + 1
    (tmp_path / "vsftpd.conf").write_text(f"""
listen=YES
background=NO
listen_port={control.port}
pasv_min_port={low}
pasv_max_port={high}
anonymous_enable=YES
no_anon_password=YES
anon_root={site}
ftp_username=root
run_as_launching_user=YES
seccomp_sandbox=NO
vsftpd_log_file={tmp_path}/log
""")
    command: list[str | Path] = ["vsftpd", tmp_path / "vsftpd.conf"]
    with running(serving, command, f"-t sport = :{control.port}", tmp_path):
        script = (
            "set net:max-retries 1; set net:timeout 10; set ftp:fix-pasv-address no; set ftp:use-feat no;"
            f" set ftp:prefer-epsv no; debug 5; open ftp://{control.address}:{control.port}; cls;"
            f" get file -o {tmp_path}/got"
        )
        said = using.run(["lftp", "-c", script], timeout=40)
        assert (tmp_path / "got").read_bytes() == (site / "file").read_bytes()
        own = control.serving.identity()["virtual_address"]
        assert own == control.address
        assert f"({own.replace('.', ',')}," in said.stdout + said.stderr


def test_who_speaks_and_answers(forward: Forwards) -> None:
    """Each end sees the other by the address that the other has itself."""
    port = forward()
    with TcpService(port.serving.host, port.port, echo) as service:
        asked = f"{port.using.identity()['virtual_address']}"
        port.using.host.run(["sh", "-c", f"echo x | timeout 5 nc -N {port.address} {port.port}"], timeout=10)
        assert service.peers == [asked]
        own = port.serving.identity()["virtual_address"]  # it reaches itself there
        port.serving.host.run(["sh", "-c", f"echo x | timeout 5 nc -N {own} {port.port}"], timeout=10)
        assert service.peers[1] == own


@contextmanager
def asking(host: Host, resolver: str, folder: Path) -> Iterator[Path]:
    """A resolv.conf that leads there, for `told`."""
    file = folder / "resolv.conf"
    file.write_text(f"nameserver {resolver}\n")
    yield file


def told(host: Host, file: Path, command: str) -> str:
    """What a program says that takes this file for /etc/resolv.conf."""
    inner = f"mount --bind {file} $(realpath /etc/resolv.conf) && {command}"
    return host.run(["unshare", "--mount", "sh", "-c", inner], timeout=30).stdout


@pytest.fixture
def web(forward: Forwards) -> Iterator[Forward]:
    def serve(connection: object) -> None:
        connection.recv(4096)  # type: ignore[attr-defined]
        connection.sendall(b"HTTP/1.0 200 OK\r\n\r\nhello\n")  # type: ignore[attr-defined]

    port = forward()
    with TcpService(port.serving.host, port.port, serve):
        yield port


def test_ask_the_daemon(web: Forward, tmp_path: Path) -> None:
    host, name = web.using.host, f"{web.serving.name}.tunfwd.internal"
    identity = web.using.identity()
    assert (identity["dns"][0], identity["domain"]) == ("10.77.0.53", "tunfwd.internal")
    for server in identity["dns"]:
        for transport in ("+notcp", "+tcp"):
            found = host.run(["dig", "+short", transport, f"@{server}", name, "A"], timeout=20).stdout
            assert found.split() == [web.address]
    assert host.run(["dig", "+short", "@10.77.0.53", "-x", web.address], timeout=20).stdout == f"{name}.\n"
    with asking(host, "10.77.0.53", tmp_path) as file:
        assert told(host, file, f"getent ahostsv4 {name}").split()[0] == web.address
        assert told(host, file, f"getent hosts {web.address}").split()[1] == name
        assert told(host, file, f"curl -sS --max-time 10 http://{name}:{web.port}/") == "hello\n"


@pytest.mark.parametrize("program", ["dnsmasq", "unbound"])
def test_by_the_systems_resolver(web: Forward, tmp_path: Path, program: str) -> None:
    host, name = web.using.host, f"{web.serving.name}.tunfwd.internal"
    drop_in = web.using.cli("dns", "install", "--print", "--for", program).stdout
    config = tmp_path / f"{program}.conf"
    match program:
        case "dnsmasq":
            config.write_text(f"no-resolv\nno-hosts\nlisten-address=127.0.0.1\nbind-interfaces\n{drop_in}")
            command = f"dnsmasq -k --user=root --pid-file={tmp_path}/pid -C {config}"
        case _:
            settings = f'  username: ""\n  chroot: ""\n  pidfile: "{tmp_path}/pid"\n'
            settings += "  do-daemonize: no\n  use-syslog: no\n"
            config.write_text(f"server:\n  interface: 127.0.0.1\n{settings}{drop_in}")
            command = f"unbound -d -c {config}"
    with (
        running(host, shlex.split(command), "-u sport = :53", tmp_path),
        asking(host, "127.0.0.1", tmp_path) as file,
    ):
        eventually(lambda: told(host, file, f"getent ahostsv4 {name} || true"), "the name is found")
        assert told(host, file, f"getent ahostsv4 {name}").split()[0] == web.address
        assert told(host, file, f"getent hosts {web.address}").split()[1] == name
        assert told(host, file, f"curl -sS --max-time 10 http://{name}:{web.port}/") == "hello\n"

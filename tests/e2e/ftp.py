"""An FTP server that says where its data port is, by its own address; and a client that believes it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from netns.topology import Host

from .hosts import bytes_of
from .test_programs import running

CONTENT = bytes_of(3, 2_000_000)


@contextmanager
def ftp_server(host: Host, port: int, data_ports: Sequence[int], folder: Path) -> Iterator[None]:
    """vsftpd, for anybody, with one file; its data ports are a range."""
    low, high = min(data_ports), max(data_ports)
    assert high - low == len(data_ports) - 1
    site = folder / "site"
    site.mkdir(mode=0o755)
    (site / "file").write_bytes(CONTENT)
    (folder / "vsftpd.conf").write_text(f"""
listen=YES
background=NO
listen_port={port}
pasv_min_port={low}
pasv_max_port={high}
anonymous_enable=YES
no_anon_password=YES
anon_root={site}
ftp_username=root
run_as_launching_user=YES
seccomp_sandbox=NO
vsftpd_log_file={folder}/log
""")
    with running(host, ["vsftpd", folder / "vsftpd.conf"], f"-t sport = :{port}", folder):
        yield


def fetch_by_ftp(host: Host, address: str, port: int, folder: Path) -> None:
    """Get the file in passive mode, from where the server says: which is the address that it has for us."""
    got = folder / f"got by {host.name}"
    script = (
        "set net:max-retries 1; set net:timeout 30; set ftp:fix-pasv-address no; set ftp:use-feat no;"
        f" set ftp:prefer-epsv no; debug 5; open ftp://{address}:{port}; cls; get file -o '{got}'"
    )
    said = host.run(["lftp", "-c", script], timeout=90)
    assert got.read_bytes() == CONTENT
    assert f"({address.replace('.', ',')}," in said.stdout + said.stderr

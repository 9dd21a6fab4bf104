"""Each case runs in a process of its own: what it gives up, it does not get back."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.netns


def run(code: str, *wrapper: str) -> str:
    done = subprocess.run(
        [*wrapper, sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


DROP = """
from tunfwd.tun import privileges
privileges.check()
privileges.drop()
"""


def test_nothing_is_left() -> None:
    status = run(DROP + "print(open('/proc/self/status').read())")
    for field in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert f"{field}:\t0000000000000000" in status
    assert "NoNewPrivs:\t1" in status


def test_programs_started_later_have_nothing() -> None:
    status = run(DROP + "import subprocess; subprocess.run(['cat', '/proc/self/status'])")
    for field in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert f"{field}:\t0000000000000000" in status


def test_no_device_can_be_made_afterwards() -> None:
    output = run(
        DROP
        + """
from tunfwd.tun.device import Device
for attempt in (privileges.check, lambda: Device.open("tunfwd0")):
    try:
        attempt()
    except privileges.PrivilegeError as error:
        print(error)
""",
        "unshare",
        "--net",
    )
    assert "CAP_NET_ADMIN is missing" in output
    assert "no TUN device can be created: Operation not permitted" in output


def test_the_device_goes_on_working() -> None:
    output = run(
        """
import select, socket
from tests.tun.conftest import OWN4, OWN6
from tests.tun.test_device import NO_OFFLOAD, udp
from tunfwd.tun import network, privileges
from tunfwd.tun.device import Device
device = Device.open("tunfwd0")
network.configure(device.name, OWN4, OWN6)
privileges.drop()
application = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
application.bind(("10.77.0.1", 5000))
application.settimeout(20)
application.sendto(b"request", ("10.77.3.9", 9))
select.select([device], [], [], 20)
print(device.read()[0][-7:])
device.write([NO_OFFLOAD, udp("10.77.3.9", "10.77.0.1", b"reply")])
print(application.recv(100))
""",
        "unshare",
        "--net",
    )
    assert output == "b'request'\nb'reply'\n"


def test_root_still_writes_its_own_files(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir(mode=0o700)
    path = str(tmp_path / "state" / "new")
    run(DROP + f"from pathlib import Path; p = Path({path!r}); p.write_text('x'); p.chmod(0o600)")
    assert (tmp_path / "state" / "new").read_text() == "x"


def test_net_admin_alone_is_enough() -> None:
    """As from systemd's AmbientCapabilities, for a user who is not root."""
    for_all = (
        'mount -t tmpfs none /dev/net && mknod -m 666 /dev/net/tun c 10 200 && exec "$@"'  # as udev does
    )
    output = run(
        DROP + "import os; print(os.getuid()); print(open('/proc/self/status').read())",
        *("unshare", "--mount", "sh", "-c", for_all, "sh"),
        *("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"),
        *("--inh-caps=+net_admin", "--ambient-caps=+net_admin"),
    )
    assert output.startswith("65534\n")
    for field in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
        assert f"{field}:\t0000000000000000" in output
    assert "NoNewPrivs:\t1" in output


def test_a_thread_that_would_keep_them_is_an_error() -> None:
    output = run(
        """
import threading
from tunfwd.tun import privileges
threading.Thread(target=threading.Event().wait, daemon=True).start()
try:
    privileges.drop()
except RuntimeError as error:
    print(error)
"""
    )
    assert "still holds capabilities" in output


CHECK = """
from tunfwd.tun import privileges
try:
    privileges.check()
except privileges.PrivilegeError as error:
    print(error)
"""


def test_an_ordinary_user_is_told() -> None:
    output = run(CHECK, "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    assert "run the daemon as root" in output


def test_a_machine_without_tun_is_told(tmp_path: Path) -> None:
    hide = 'mount -t tmpfs none /dev/net && exec "$@"'
    output = run(CHECK, "unshare", "--mount", "sh", "-c", hide, "sh")
    assert output.startswith("this kernel has no TUN device at /dev/net/tun: load it with `modprobe tun`")

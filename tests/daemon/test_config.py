import codecs
import json
import os
import re
import socket
from contextlib import suppress
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunfwd.common.errors import ConfigurationError
from tunfwd.common.notation import Target
from tunfwd.config.document import DEFAULT_RANGE6, Config, load, parse
from tunfwd.config.rules import Expose
from tunfwd.forwarding.policy import Action, Rule
from tunfwd.tox.settings import Node, Proxy
from tunfwd.wire.packets import Direction, Protocol

KEY = "0123456789abcdef" * 4

EVERYTHING = f"""
[tox]
public_nodes = false
bootstrap = ["node.example:33445:{KEY}", "[2001:db8::1]:443:{KEY}"]
relays = ["10.0.0.1:3389:{KEY}"]
udp = false
udp_port = 33500
ipv6 = false
local_discovery = false
tcp_relay_port = 3389
proxy = "socks5://127.0.0.1:9050"
nickname = "Zoë"
passphrase_file = "/etc/tunfwd/passphrase"
binding = "pytox"
groups = false

[network]
range = "10.9.0.0/24"
range6 = "fd00:1:2::/48"
interface = "tox0"
mtu = 9000
forwarded = true
users = ["alice", "root"]

[lan]
broadcast = false
capture = true

[forwarding]
udp_idle = 30
connect_timeout = 2.5
link = false
outage = 5

[daemon]
user = "toxer"

[control]
socket = "/run/x.sock"
group = "staff"

[log]
level = "debug"

[friends]
auto_accept = ["{KEY}"]

[groups]
auto_accept = ["{KEY.upper()}{"0" * 12}"]

[[rule]]
contact = "alice"
protocol = "tcp"
ports = [22, "8000-9000"]
direction = "connection"
action = "accept"
target = "127.0.0.1:22"

[[rule]]
contact = "{KEY}"
action = "deny"

[[rule]]
contact = "group:lan/*"
protocol = "udp"
ports = 27015
direction = "server"
action = "ask"

[[expose]]
protocol = "tcp"
port = 22

[[expose]]
protocol = "udp"
port = 53
target = "[::1]:5353"
contact = "bob"
"""


def _load(path: Path | None = None, environ: dict[str, str] | None = None, euid: int = 0) -> Config:
    return load(path, environ=environ or {}, euid=euid)


def test_everything(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(EVERYTHING)
    config = _load(file)
    key = bytes.fromhex(KEY)
    assert config.file == file
    assert config.socket == Path("/run/x.sock")
    assert (config.group, config.user, config.log_level) == ("staff", "toxer", "debug")
    assert config.network.range == IPv4Network("10.9.0.0/24")
    assert config.network.range6 == IPv6Network("fd00:1:2::/48")
    assert (config.network.interface, config.network.mtu) == ("tox0", 9000)
    assert config.network.forwarded
    assert (config.lan.broadcast, config.lan.capture) == (False, True)
    assert config.network.users == ("alice", "root")
    forwarding = config.forwarding
    assert (forwarding.udp_idle, forwarding.connect_timeout, forwarding.link, forwarding.outage) == (
        *(30.0, 2.5, False, 5.0),
    )
    assert config.auto_accept_friends == config.auto_accept_groups == {key}
    assert config.rules == (
        Rule(
            Action.ACCEPT,
            "alice",
            Protocol.TCP,
            (range(22, 23), range(8000, 9001)),
            Direction.CONNECTION,
            "127.0.0.1:22",
        ),
        Rule(Action.DENY, KEY.upper()),
        Rule(Action.ASK, "group:lan/*", Protocol.UDP, (range(27015, 27016),), Direction.SERVER),
    )
    assert config.exposed == (Expose("tcp", 22), Expose("udp", 53, Target("::1", 5353), "bob"))
    settings = config.tox.settings(Path("/s/tox"), "host")
    assert settings.bootstrap == (Node("node.example", 33445, key), Node("2001:db8::1", 443, key))
    assert not config.tox.public_nodes
    assert settings.relays == (Node("10.0.0.1", 3389, key),)
    assert settings.proxy == Proxy("socks5", "127.0.0.1", 9050)
    assert (settings.savedata, settings.name) == (Path("/s/tox"), "Zoë")
    assert (settings.udp, settings.ipv6, settings.local_discovery, settings.groups) == (False,) * 4
    assert (settings.udp_port, settings.tcp_relay_port) == (33500, 3389)
    assert (settings.library, settings.passphrase_file) == ("pytox", Path("/etc/tunfwd/passphrase"))


def test_nothing_is_default() -> None:
    config = _load(environ={"HOME": "/nowhere", "XDG_RUNTIME_DIR": "/"}, euid=1000)
    assert config.file is None
    assert config.state == Path("/nowhere/.local/state/tunfwd")
    assert config.socket == Path("/tunfwd/control.sock")
    assert config.network.range is None
    assert (config.dns.enabled, config.dns.domain) == (True, "tunfwd.internal")
    assert not config.network.forwarded
    assert (config.lan.broadcast, config.lan.capture) == (True, False)
    assert config.network.range6 == DEFAULT_RANGE6
    assert (config.rules, config.exposed, config.auto_accept_friends) == ((), (), frozenset())
    assert config.tox.settings(Path("/s"), "host").name == "host"
    assert config.tox.public_nodes is True


def test_system_places() -> None:
    config = _load(environ={"HOME": "/nowhere", "XDG_CONFIG_HOME": "/nowhere"})
    assert config.state == Path("/var/lib/tunfwd")
    assert config.socket == Path("/run/tunfwd/control.sock")


def test_xdg_places(tmp_path: Path) -> None:
    environ = {
        "HOME": "/nowhere",
        "XDG_CONFIG_HOME": str(tmp_path / "c"),
        "XDG_STATE_HOME": str(tmp_path / "s"),
        "XDG_RUNTIME_DIR": "relative/is/ignored",
    }
    (tmp_path / "c/tunfwd").mkdir(parents=True)
    (tmp_path / "c/tunfwd/config.toml").write_text('[log]\nlevel = "error"\n')
    config = _load(environ=environ, euid=1000)
    assert config.file == tmp_path / "c/tunfwd/config.toml"
    assert config.log_level == "error"
    assert config.state == tmp_path / "s/tunfwd"
    runtime = Path(f"/run/user/{os.getuid()}")
    assert config.socket == (runtime if runtime.is_dir() else config.state.parent) / "tunfwd/control.sock"


def test_environment_goes_before_the_file(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text('[control]\nsocket = "/run/file.sock"\n[log]\nlevel = "error"\n')
    config = _load(
        environ={
            "TUNFWD_CONFIG": str(file),
            "TUNFWD_STATE_DIR": "/s",
            "TUNFWD_SOCKET": "/e.sock",
            "TUNFWD_LOG": "DEBUG",
            "TUNFWD_PUBLIC_NODES": "0",
        }
    )
    assert config.tox.public_nodes is False
    assert (config.file, config.state, config.socket) == (file, Path("/s"), Path("/e.sock"))
    assert config.log_level == "debug"


def test_a_bad_level_in_the_environment() -> None:
    with pytest.raises(ConfigurationError, match=r"\$TUNFWD_LOG must be one of debug, info, warning, error"):
        _load(environ={"TUNFWD_LOG": "/var/log/x"})


@pytest.mark.parametrize(
    ("written", "variable", "used"),
    [
        ("true", "0", False),
        ("false", "1", True),
        ("false", "", False),
        ("false", "/etc/tunfwd/nodes.json", Path("/etc/tunfwd/nodes.json")),
        ('"/srv/nodes.json"', "", Path("/srv/nodes.json")),
    ],
)
def test_public_nodes(tmp_path: Path, written: str, variable: str, used: bool | Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(f"[tox]\npublic_nodes = {written}\n")
    assert _load(file, {"TUNFWD_PUBLIC_NODES": variable}).tox.public_nodes == used


@pytest.mark.parametrize("wrong", ['"no"', '"nodes.json"', "1", "[]"])
def test_public_nodes_that_the_file_names_wrongly(wrong: str) -> None:
    with pytest.raises(ConfigurationError, match=r"line 2: \[tox\] public_nodes must be true"):
        parse(f"[tox]\npublic_nodes = {wrong}\n", "config.toml")


@pytest.mark.parametrize("wrong", ["yes", "false", "2", "nodes.json"])
def test_public_nodes_that_the_environment_names_wrongly(wrong: str) -> None:
    with pytest.raises(ConfigurationError, match=r"\$TUNFWD_PUBLIC_NODES must be 0, 1 or the absolute path"):
        _load(environ={"TUNFWD_PUBLIC_NODES": wrong})


RULE = '[[rule]]\ncontact = "a"\naction = "ask"\n'
EXPOSE = '[[expose]]\nprotocol = "tcp"\nport = 1\n'


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        # not TOML
        ("[tox]\nudp = yes\n", 2, "invalid value"),
        ("[tox\n", 1, "expected ']'"),
        ("[tox]\nudp = true\nudp = false\n", 3, "cannot overwrite a value"),
        ('[tox]\nnickname = "x\n', 2, "illegal character"),
        ('[tox]\nnickname = """x\n', 3, "unterminated string"),
        # unknown keys
        ("\n[toxx]\n", 2, "[toxx] is not known; did you mean 'tox'?"),
        ("udp = true\n", 1, "[udp] is not known"),
        ("[tox]\n\nbootsrap = []\n", 3, "[tox] bootsrap is not known; did you mean 'bootstrap'?"),
        (RULE + "prots = 1\n", 4, "[[rule]] prots is not known; did you mean 'ports'?"),
        # wrong types
        ("tox = 1\n", 1, "[tox] must be a table, not a whole number"),
        ("[[tox]]\n", 1, "[tox] must be a table, not a list"),
        ("[rule]\n", 1, "write [[rule]], in two pairs of brackets"),
        ("[tox]\nudp = 1\n", 2, "[tox] udp must be true or false, not a whole number"),
        ('[tox]\nudp_port = "33445"\n', 2, "[tox] udp_port must be a whole number, not a string"),
        ('[tox]\nbootstrap = "x"\n', 2, "[tox] bootstrap must be a list, not a string"),
        ("[tox]\nnickname = 1979-05-27\n", 2, "[tox] nickname must be a string, not a date"),
        (f'[tox]\nbootstrap = [\n "h:1:{KEY}",\n 3,\n]\n', 4, "[tox] bootstrap[1] must be a string"),
        # bad values
        ('[tox]\nbootstrap = [\n\n"h:1"]\n', 4, "'h:1' is not HOST:PORT:KEY"),
        ("[tox]\nudp_port = 65536\n", 2, "must be a port, or 0"),
        ("[tox]\ntcp_relay_port = -1\n", 2, "must be a port, or 0"),
        ('[tox]\nudp = false\nproxy = "ftp://h:1"\n', 3, "is not socks5://HOST:PORT"),
        ('[tox]\nudp = false\nproxy = "socks5://h:99999"\n', 3, "is not socks5://HOST:PORT"),
        ('\n[tox]\nproxy = "http://h:1"\n', 3, "[tox] proxy needs udp = false"),
        (f'[tox]\nnickname = "{"é" * 65}"\n', 2, "must be 1 to 128 bytes"),
        ('[tox]\nnickname = ""\n', 2, "must be 1 to 128 bytes"),
        ('[tox]\npassphrase_file = "secret"\n', 2, "'secret' is not an absolute path"),
        ('[tox]\nbinding = "cython"\n', 2, "must be one of builtin, pytox"),
        ('[network]\nrange = "10.77.0.1/16"\n', 2, "has host bits set"),
        ('[dns]\ndomain = "a..b"\n', 2, "is not a domain such as tunfwd.internal"),
        ('[dns]\ndomain = "-a.b"\n', 2, "is not a domain such as tunfwd.internal"),
        ('[dns]\ndomain = "1.2.3.4"\n', 2, "reads as an address"),
        ('[network]\nrange = "10.0.0.0/30"\n', 2, "the prefix is from /8 to /29"),
        ('[network]\nrange = "127.0.0.0/8"\n', 2, "cannot be routed"),
        ('[network]\nrange = "fd00::/48"\n', 2, "is not an IPv4 range"),
        ('[network]\nrange6 = "2001:db8::/48"\n', 2, "is not a unique local /48"),
        ('[network]\nrange6 = "fd00::/64"\n', 2, "is not a unique local /48"),
        ('[network]\ninterface = "sixteen-letters-"\n', 2, "is not an interface name"),
        ('[network]\ninterface = "a/b"\n', 2, "is not an interface name"),
        ("[network]\nmtu = 1279\n", 2, "must be from 1280"),
        ("[network]\nmtu = 65522\n", 2, "to 65521 bytes"),
        ("[forwarding]\nudp_idle = 0\n", 2, "must be more than 0"),
        ("[forwarding]\noutage = inf\n", 2, "must be a finite number"),
        ("[forwarding]\nconnect_timeout = true\n", 2, "must be a number, not true or false"),
        ('[control]\nsocket = "x.sock"\n', 2, "is not an absolute path"),
        ('[log]\nlevel = "loud"\n', 2, "must be one of debug, info, warning, error"),
        (f'[friends]\nauto_accept = ["{KEY[1:]}"]\n', 2, "is not a public key: 64 hex digits"),
        # rules and exposures
        ("[expose]\nport = 1\n", 1, "write [[expose]], in two pairs of brackets"),
        (RULE + 'target = "http://h:1"\n', 4, "'http://h:1' is a URL: write HOST:PORT alone"),
        ('[[rule]]\naction = "ask"\n', 1, "[[rule]] lacks 'contact'"),
        (RULE + RULE + '\n[[rule]]\ncontact = "a"\n', 8, "[[rule]] lacks 'action'"),
        (RULE.replace('"ask"', '"allow"'), 3, "[[rule]] action must be one of accept, deny, ask"),
        (RULE + 'protocol = "sctp"\n', 4, "must be one of tcp, udp, *"),
        (RULE + "ports = 0\n", 4, "0 is not a port"),
        (RULE + "ports = true\n", 4, "must be a port, a range"),
        (RULE + 'ports = "9000-8000"\n', 4, "the first port is above the last"),
        (RULE + 'ports = [80,\n  "x-y"]\n', 4, "'x' is not a port"),
        (RULE + 'contact = ""\n', 4, "cannot overwrite"),
        ('[[rule]]\naction = "ask"\ncontact = ""\n', 3, "must be 1 to 256 characters"),
        (RULE + 'target = "h:1"\n', 4, "[[rule]] target goes with direction"),
        (RULE + 'target = "h"\n', 4, "'h' is not HOST:PORT"),
        ("[[expose]]\nport = 1\n", 1, "[[expose]] lacks 'protocol'"),
        (EXPOSE.replace("1", "70000"), 3, "70000 is not a port"),
        (EXPOSE + EXPOSE + 'target = "::1:80"\n', 7, "write an IPv6 address in brackets"),
    ],
)
def test_mistakes_name_file_line_and_reason(text: str, line: int, reason: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse(text, "/etc/c.toml")
    assert caught.value.message.startswith(f"/etc/c.toml, line {line}: ")
    assert reason in caught.value.message
    assert "\n" not in caught.value.message
    assert caught.value.exit_code == 7


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="there is no such file"):
        _load(tmp_path / "none.toml")
    with pytest.raises(ConfigurationError, match="there is no such file"):
        _load(environ={"TUNFWD_CONFIG": str(tmp_path / "none.toml")})
    with pytest.raises(ConfigurationError, match="cannot be read: Is a directory"):
        _load(tmp_path)
    latin = tmp_path / "latin.toml"
    latin.write_bytes(b"[tox]\n# caf\xe9\n")
    with pytest.raises(ConfigurationError, match="line 2: not UTF-8"):
        _load(latin)
    large = tmp_path / "large.toml"
    large.write_bytes(b"#" * (1 << 20) + b"\n")
    with pytest.raises(ConfigurationError, match="longer than"):
        _load(large)
    deep = tmp_path / "deep.toml"
    deep.write_text("x = " + "[" * 5000 + "]" * 5000)
    with pytest.raises(ConfigurationError, match="nested too deeply"):
        _load(deep)


# Files that are not what they should be.


@pytest.mark.parametrize("ends", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", [b"", codecs.BOM_UTF8])
def test_a_byte_order_mark_and_line_ends_make_no_difference(tmp_path: Path, mark: bytes, ends: str) -> None:
    file = tmp_path / "config.toml"
    file.write_bytes(mark + EVERYTHING.replace("\n", ends).encode())
    assert _load(file).tox.nickname == "Zoë"
    file.write_bytes(mark + f"[tox]{ends}udp = 1{ends}".encode())
    with pytest.raises(ConfigurationError, match=r"line 2: \[tox\] udp must be true or false"):
        _load(file)
    file.write_bytes(mark + f"[tox]{ends}udp = \xff".encode("latin-1"))
    with pytest.raises(ConfigurationError, match="line 2: not UTF-8 text"):
        _load(file)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_another_encoding_is_named(tmp_path: Path, encoding: str) -> None:
    file = tmp_path / "config.toml"
    file.write_bytes("[tox]\nudp = true\n".encode(encoding))
    with pytest.raises(
        ConfigurationError, match="line 1: not UTF-8 text, but UTF-16 perhaps; save it as UTF-8"
    ):
        _load(file)


def test_what_is_no_file_is_said_and_not_waited_for(tmp_path: Path) -> None:
    pipe, directory, listener = tmp_path / "pipe", tmp_path / "directory", tmp_path / "socket"
    os.mkfifo(pipe)
    directory.mkdir()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(os.fspath(listener))
        for path, reason in (
            (pipe, "Not a regular file"),
            (directory, "Is a directory"),
            (listener, "No such device"),
            (Path("/dev/zero"), "Not a regular file"),
            (directory / "x" / "y", "there is no such file"),
            (tmp_path / ("x" * 300), "File name too long"),
        ):
            with pytest.raises(ConfigurationError, match=reason):
                _load(path)
    assert _load(Path("/dev/null")).tox.udp


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[forwarding]\nudp_idle = " + "9" * 400, r"line 2: \[forwarding\] udp_idle is too large a number"),
        ("[forwarding]\n\nudp_idle = -" + "9" * 400, "line 3: .* is too large a number"),
        ("[forwarding]\nudp_idle = 1e400", "line 2: .* must be a finite number"),
        ("[forwarding]\nudp_idle = nan", "line 2: .* must be a finite number"),
        ("[forwarding]\noutage = -inf", "line 2: .* must be a finite number"),
        ("[network]\nmtu = " + "9" * 400, r"line 2: \[network\] mtu is too large a number"),
        ("[network]\nmtu = 0x" + "f" * 9000, r"line 2: \[network\] mtu is too large a number"),
        ("[network]\n\n\nmtu = " + "9" * 5000, "line 4: too large a number"),
        (
            "[[rule]]\nports = 0x" + "f" * 9000 + "\naction = 'ask'\ncontact = 'x'",
            r"line 2: \[\[rule\]\] ports .*so large a number is not a port",
        ),
        ("[tox]\nudp_port = 1" + "0" * 400, "line 2: .* is too large a number"),
        ("[[rule]]\nports = " + "[" * 300 + "]" * 300, "nested too deeply|must be a port|'action'|lacks"),
        ("[a]\nx = " + "[" * 5000, "line 2: nested too deeply"),
        ("[a]\nx = " + "{a=" * 5000, "line 2: nested too deeply"),
        ('[control]\nsocket = "~no-such-user/x"', "line 2: .*there is no such user"),
        ('[control]\nsocket = "/run/\\u0000"', "line 2: .*is not a path"),
        ('[control]\ngroup = "a\\u0000b"', "line 2: .*is not the name of a user or group"),
        ('[daemon]\nuser = ""', "line 2: .*is not the name of a user or group"),
        ('[network]\ninterface = "a\\u0000"', "line 2: .*is not an interface name"),
        (f'[tox]\nbootstrap = ["a\\u0000b:1:{KEY}"]', "line 2: .*is not a host name or address"),
        ('[tox]\nudp = false\nproxy = "http://a\\u0000:1"', "line 3: .*is not socks5"),
        ('[[expose]]\nprotocol = "tcp"\nport = 1\ntarget = "a..b:1"', "line 4: .*is not a host name"),
        (f'[[expose]]\nprotocol = "tcp"\nport = 1\ntarget = "{"a" * 64}:1"', "line 4: .*is not a host name"),
    ],
)
def test_values_beyond_all_bounds(text: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        parse(text, "config.toml")


VALUES = st.one_of(
    st.integers().map(str),
    st.floats(allow_nan=True).map(lambda number: repr(number).replace("e+", "e")),
    st.sampled_from(
        ["true", "1979-05-27", "07:32:00", "9" * 400, "-" + "9" * 400, "9" * 5000, "0x" + "f" * 5000]
    ),
    st.sampled_from(
        ["[]", "{}", "[[[1]]]", "{a = {b = 1}}", "[" * 200, "''", '"~x/"', '"group:"', '"0"', '"*"']
    ),
    st.text(max_size=30).map(json.dumps),  # TOML's basic strings are JSON's, but for some
)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_document_is_taken_or_refused_with_its_line(data: st.DataObject) -> None:
    """One that is right, with some values replaced, lines doubled or left out, and characters put in."""
    lines = EVERYTHING.splitlines()
    for number in data.draw(st.lists(st.integers(0, len(lines) - 1), max_size=4)):
        key, equals, _ = lines[number].partition(" = ")
        if equals and data.draw(st.booleans()):
            lines[number] = f"{key} = {data.draw(VALUES)}"
        else:
            lines[number] = data.draw(st.sampled_from(["", f"{lines[number]}\n{lines[number]}"]) | st.text())
    text = "\n".join(lines)
    if data.draw(st.booleans()):
        place = data.draw(st.integers(0, len(text)))
        text = text[:place] + data.draw(st.text(max_size=3)) + text[place:]
    message = None
    try:
        parse(text, "config.toml")
    except ConfigurationError as wrong:
        message = wrong.message
    if message is not None:
        found = re.match(r"config\.toml, line (\d+): ", message)
        assert found, message
        assert 1 <= int(found[1]) <= text.count("\n") + 1


@settings(max_examples=200)
@given(st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_bytes_are_taken_or_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    file = tmp_path_factory.getbasetemp() / "config.toml"
    file.write_bytes(content)
    with suppress(ConfigurationError):
        _load(file)


def test_words_are_taken_in_capitals_too() -> None:
    text = '[log]\nlevel = "DEBUG"\n[[rule]]\ncontact = "a"\naction = "Accept"\nprotocol = "TCP"\n'
    document = parse(text, "c")
    rule = document.rule[0]
    assert (document.log.level, rule.action, rule.protocol) == ("debug", "accept", "tcp")

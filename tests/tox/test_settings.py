"""Nodes are read strictly, and written as they are read."""

from pathlib import Path

import pytest

from tunfwd.tox.settings import Node, Proxy, Settings, nodes

KEY = "AB" * 32


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        (f"127.0.0.1:33445:{KEY}", "127.0.0.1", 33445),
        (f"  tox.example.org:1:{KEY.lower()}\n", "tox.example.org", 1),
        (f"[2001:db8::1]:65535:{KEY}", "2001:db8::1", 65535),
    ],
)
def test_node(text: str, host: str, port: int) -> None:
    node = Node.parse(text)
    assert node == Node(host, port, bytes.fromhex(KEY))
    assert Node.parse(str(node)) == node


@pytest.mark.parametrize(
    "text",
    [
        "",
        "host",
        "host:33445",
        f"host:33445:{KEY[:-1]}",
        f"host:33445:{KEY}A",
        f"host:33445:{'G' * 64}",
        f"host:0:{KEY}",
        f"host:65536:{KEY}",
        f"host:-1:{KEY}",
        f":33445:{KEY}",
        f"2001:db8::1:33445:{KEY}",
        f"[host:33445:{KEY}",
        f"a b:33445:{KEY}",
        f"host:٣٣:{KEY}",
    ],
)
def test_no_node(text: str) -> None:
    with pytest.raises(ValueError, match="is not"):
        nodes([f"good:33445:{KEY}", text])


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"udp_port": 65536}, "udp_port"),
        ({"tcp_relay_port": -1}, "tcp_relay_port"),
        ({"name": "é" * 65}, "128 bytes"),
        ({"proxy": Proxy("socks5", "localhost", 0)}, "proxy"),
    ],
)
def test_settings_out_of_range(wrong: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Settings(savedata=Path("x"), **wrong)  # type: ignore[arg-type]

"""`tunfwd share` and `tunfwd join` behind NATs: all that two people type, without a configuration."""

from __future__ import annotations

import json
import socket
import time

import pytest

from netns.first_contact import PROMISED, Case, _daemons
from netns.networks import Nat, Site

from .hosts import TcpService

pytestmark = [pytest.mark.netns, pytest.mark.patient, pytest.mark.toxnet, pytest.mark.timeout(400)]

PATIENCE = 3 * PROMISED  # s: other tests run beside these


def page(connection: socket.socket) -> None:
    connection.recv(1000)
    connection.sendall(b"HTTP/1.0 200 OK\r\n\r\nhello")


@pytest.mark.parametrize("nat", [Nat.CONE, Nat.SYMMETRIC], ids=lambda nat: nat.value)
def test_share_join_curl_behind_two_nats(nat: Nat) -> None:
    case = Case(Site(nat=nat), Site(nat=nat))
    with case.network() as net, _daemons(net, case) as (ann, ben, start):
        with TcpService(ben.host, 8080, page):
            ticket = ben.json("share", "8080/tcp")["invite"]["ticket"]
            answer = ann.cli("join", ticket, "--json", timeout=150)
            [mapping] = json.loads(answer.stdout)["mappings"]
            url = f"http://{mapping['address']}:8080/"
            assert ann.host.run(["curl", "-sS", "--max-time", "20", url]).stdout == "hello"
            took = time.monotonic() - start
        print(f"{nat.value}: {took:.1f} s from the start of both")
        assert took < PATIENCE, ann.log + ben.log

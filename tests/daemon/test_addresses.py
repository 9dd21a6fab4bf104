import time
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunfwd import wire
from tunfwd.daemon.storage.addresses import AddressBook, NoAddressLeft
from tunfwd.daemon.storage.state import contact_id

RANGE = IPv4Network("10.77.0.0/16")
RANGE6 = IPv6Network("fd74:756e:6677::/48")

ids = st.text("0123456789ABCDEF/", min_size=1, max_size=8)
networks = st.builds(
    lambda bits, prefix: IPv4Network((bits, prefix), strict=False),
    st.integers(0x0A000000, 0x0AFFFFFF),
    st.integers(8, 29),
)


def book(network: IPv4Network = RANGE, table: dict[str, IPv4Address] | None = None) -> AddressBook:
    return AddressBook(network, RANGE6, {} if table is None else table)


def test_known_addresses() -> None:
    """Addresses people have written down: the hash is not to change."""
    contact = bytes(range(32)).hex().upper()
    assert book().assign(contact) == IPv4Address("10.77.253.108")
    assert book().address6(contact) == IPv6Address("fd74:756e:6677:d39f:4e0b:e9df:3330:1ce")


def test_the_specification_s_addresses() -> None:
    """SPEC.md, section 12: where other programs look for us."""
    key, group = bytes(range(32)), bytes(range(32, 64))
    written = (Path(wire.__file__).parent / "SPEC.md").read_text().partition("## 12.")[2]
    for contact in (contact_id(key), contact_id(key, group)):
        assert f"| {book().assign(contact)} | {book().address6(contact)} |" in written


def test_what_is_never_given_out() -> None:
    addresses = book()
    assert (str(addresses.resolver), str(addresses.resolver6)) == ("10.77.0.53", "fd74:756e:6677::53")
    table = {"a": addresses.resolver}
    assert book(table=table).assign("a") != addresses.resolver


@given(networks, st.lists(ids, unique=True, max_size=40))
def test_unique_in_range_and_stable(network: IPv4Network, contacts: list[str]) -> None:
    table: dict[str, IPv4Address] = {}
    addresses = book(network, table)
    given = {}
    for contact in contacts[: addresses.capacity]:
        address = given[contact] = addresses.assign(contact)
        addresses.keep(contact)
        assert address in network
        assert address not in (network.network_address, network.broadcast_address, addresses.own)
        assert address.packed[3] not in (0, 255)
    assert len(set(given.values())) == len(given)
    assert table == given
    again = book(network, dict(table))  # the next run, asked in another order
    assert {contact: again.assign(contact) for contact in reversed(contacts[: addresses.capacity])} == given


@given(st.lists(ids, unique=True, min_size=1, max_size=30))
def test_a_machine_set_up_anew_gives_the_same(contacts: list[str]) -> None:
    """Without collisions, which a /16 has rarely among thirty, order does not matter."""
    forwards, backwards = book(), book()
    first = {contact: forwards.assign(contact) for contact in contacts}
    second = {contact: backwards.assign(contact) for contact in reversed(contacts)}
    assert sum(first[contact] != second[contact] for contact in contacts) <= 2


@pytest.mark.heavy
@pytest.mark.parametrize("prefix", range(20, 30))
def test_every_address_is_given_out_then_it_is_said(prefix: int) -> None:
    network = IPv4Network(f"10.1.16.0/{prefix}")
    addresses = book(network)
    given = {addresses.assign(str(number)) for number in range(addresses.capacity)}
    usable = {host for host in network.hosts() if host.packed[3] not in (0, 255)} - {
        addresses.own,
        addresses.resolver,
    }
    assert given == usable
    with pytest.raises(NoAddressLeft, match=rf"{network} is full with {len(usable)} contacts"):
        addresses.assign("one more")
    assert addresses.assign("0") in given
    addresses.release("7" if addresses.capacity > 7 else "2")
    assert addresses.assign("one more") in given


@given(networks, networks, st.lists(ids, unique=True, max_size=20))
@settings(max_examples=60)
def test_another_range(before: IPv4Network, after: IPv4Network, contacts: list[str]) -> None:
    table: dict[str, IPv4Address] = {}
    old = book(before, table)
    for contact in contacts[: old.capacity]:
        old.assign(contact)
        old.keep(contact)
    new = book(after, table)
    assert len(set(table.values())) == len(table) == min(len(contacts), old.capacity, new.capacity)
    assert all(address in after and address != new.own for address in table.values())


def test_the_same_size_keeps_the_host_part() -> None:
    table: dict[str, IPv4Address] = {}
    before = book(RANGE, table)
    given = {str(number): before.assign(str(number)) for number in range(500)}
    for contact in given:
        before.keep(contact)
    book(IPv4Network("10.78.0.0/16"), table)
    assert all(table[contact].packed[2:] == address.packed[2:] for contact, address in given.items())
    book(RANGE, table)
    assert table == given


def test_a_table_edited_by_hand() -> None:
    twice = IPv4Address("10.77.3.9")
    table = {"a": twice, "b": twice, "c": IPv4Address("10.77.0.1"), "d": IPv4Address("10.77.5.255")}
    addresses = book(RANGE, table)
    assert table["a"] == twice
    assert len(set(table.values())) == 4
    assert not {addresses.own, IPv4Address("10.77.5.255")} & set(table.values())


def test_release_of_the_unknown_does_nothing() -> None:
    addresses = book()
    addresses.release("nobody")
    assert len(addresses) == 0


def test_what_is_not_kept_is_free_in_the_next_run() -> None:
    table: dict[str, IPv4Address] = {}
    addresses = book(table=table)
    given = addresses.assign("kept"), addresses.assign("not kept")
    addresses.keep("kept")
    addresses.keep("nobody")
    assert table == {"kept": given[0]}
    assert addresses.assign("not kept") == given[1]
    addresses.release("kept")
    assert not table


@given(st.lists(ids, unique=True, max_size=50))
def test_ipv6(contacts: list[str]) -> None:
    addresses = book()
    given = [addresses.address6(contact) for contact in contacts]
    assert len(set(given)) == len(contacts)
    assert all(address in RANGE6 and address != addresses.own6 for address in given)
    assert len(addresses) == 0


def test_a_full_book_is_not_slow() -> None:
    addresses = book()
    began = time.process_time()
    for number in range(20_000):
        addresses.assign(str(number))
    assert len(addresses) == 20_000
    assert time.process_time() - began < 20

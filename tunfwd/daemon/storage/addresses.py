"""Gives contacts their virtual addresses, for as long as the owner wants.

The IPv4 address comes from a hash of who the contact is, so that it is the same on a machine set up anew;
where two want one address, the second takes the next free one. The table in state.py remembers those that
are to be kept. IPv6 has room for 80 bits of hash: no collision to expect, and no table.

We ourselves have addresses by the same rule, by the ids that contacts know us under: that is where they look
for us (SPEC.md, section 12). A contact that has ours already keeps it, and we take the next one.
"""

from collections.abc import MutableMapping
from hashlib import blake2b
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Final

_PERSON: Final = b"tunfwd address"  # keeps this hash apart from any other use of the same ids

RESOLVER: Final = 53
RESOLVER6: Final = 0x53  # which reads as ::53


def resolver_of(network: IPv4Network) -> IPv4Address:
    """Return the address that answers questions about names; the last one where the range has no 53."""
    return network[RESOLVER] if network.num_addresses > RESOLVER + 2 else network[-2]


class NoAddressLeft(Exception):
    """Every address of the range belongs to a contact; the message says what to change."""


class AddressBook:
    """The addresses of the contacts, in one IPv4 range and one IPv6 /48.

    A contact goes by its id (state.ContactId). `table` has the addresses that outlive this run, and is kept
    up to date in place, for state.py to save. What it holds from another range keeps its host part where that
    is free, so that 10.77.3.9 becomes 10.78.3.9, and is derived anew where it is not.
    """

    def __init__(
        self, network: IPv4Network, network6: IPv6Network, table: MutableMapping[str, IPv4Address]
    ) -> None:
        self.network = network
        self.network6 = network6
        self._table = table
        self._given: dict[str, IPv4Address] = {}
        self._owners: set[IPv4Address] = set()
        self._adopt()

    @property
    def own(self) -> IPv4Address:
        """The device's own address, whatever we are called: the first of the range."""
        return self.network[1]

    @property
    def own6(self) -> IPv6Address:
        """The device's own address: the first of the prefix."""
        return self.network6[1]

    @property
    def resolver(self) -> IPv4Address:
        """The address that answers questions about names."""
        return resolver_of(self.network)

    @property
    def resolver6(self) -> IPv6Address:
        """The address that answers questions about names."""
        return self.network6[RESOLVER6]

    @property
    def capacity(self) -> int:
        """How many contacts the range has room for."""
        size = self.network.num_addresses
        return size // 256 * 254 - 2 if size >= 256 else size - 4

    def __len__(self) -> int:
        return len(self._owners)

    def assign(self, contact: str) -> IPv4Address:
        """Return the address of `contact`, for this run at least. Raises NoAddressLeft."""
        known = self._given.get(contact)
        return known if known is not None else self._give(contact, _hash(contact, 8))

    def keep(self, contact: str) -> None:
        """Have the address of `contact`, if it has one, outlive this run."""
        if contact in self._given:
            self._table[contact] = self._given[contact]

    def address6(self, contact: str) -> IPv6Address:
        """The IPv6 address of `contact`."""
        return self.network6[_hash(contact, 10)]

    def release(self, contact: str) -> None:
        """Forget a contact, if it has an address; another may get it."""
        self._table.pop(contact, None)
        address = self._given.pop(contact, None)
        if address is not None:
            self._owners.remove(address)

    def _adopt(self) -> None:
        """Makes sense of a table that another range, or another hand, may have written."""
        moved = []
        for contact, address in self._table.items():
            if address in self.network and self._is_free(address):
                self._given[contact] = address
                self._owners.add(address)
            else:
                moved.append((contact, address))
        for contact, _ in moved:
            del self._table[contact]
        for contact, address in moved:
            if len(self) >= self.capacity:
                break  # the others are met again without an address
            here = self.network[int(address) % self.network.num_addresses]
            self._give(contact, int(here) if self._is_free(here) else _hash(contact, 8))
            self.keep(contact)

    def _give(self, contact: str, wanted: int) -> IPv4Address:
        if len(self) >= self.capacity:
            raise NoAddressLeft(
                f"{self.network} is full with {len(self)} contacts: set a larger [network] range"
            )
        size = self.network.num_addresses
        while not self._is_free(address := self.network[wanted % size]):
            wanted += 1
        self._given[contact] = address
        self._owners.add(address)
        return address

    def _is_free(self, address: IPv4Address) -> bool:
        # Some programs still take .0 and .255 for a network's and its broadcast, whatever the prefix.
        reserved = (self.network[0], self.own, self.resolver, self.network[-1])
        return (
            address not in self._owners and address not in reserved and int(address) & 0xFF not in (0, 0xFF)
        )


def _hash(contact: str, size: int) -> int:
    return int.from_bytes(blake2b(contact.encode(), digest_size=size, person=_PERSON).digest())

"""A Tox instance, by our own cffi binding.

Classes, methods and signatures are those of the current pytox (`pytox.toxcore.tox`), for the part the
program uses; the rest of the program runs on either (library.py chooses). Subclass `Tox_Ptr` and override the
`handle_*` methods; they are called from within `iterate`. Three things differ from pytox: errors are the
typed exceptions of errors.py, what a handler raises comes out of `iterate`, and packets must be `bytes`.

Sending is on the hot path: one C call, with `bytes` passed as they are and one error cell made once.
"""

from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, Self

from tunfwd.tox.binding.calls import buffer, call, error, expect, fixed
from tunfwd.tox.binding.enums import Tox_Connection
from tunfwd.tox.binding.errors import UseAfterFree, raise_code
from tunfwd.tox.binding.groups import Conferences, Groups
from tunfwd.tox.binding.opening import callback, ffi, forget, load
from tunfwd.tox.binding.options import Tox_Options_Ptr

__all__ = ["Tox_Options_Ptr", "Tox_Ptr"]

PUBLIC_KEY_SIZE: Final = 32
ADDRESS_SIZE: Final = 38


class Tox_Ptr(Groups, Conferences):
    """A Tox instance. Not safe to use from two threads, nor from a handler of another instance."""

    def __init__(self, options: Tox_Options_Ptr | None = None) -> None:
        self._lib = lib = load()
        self._ptr = None
        self._ptr = call("TOX_ERR_NEW", lib.tox_new, options._get() if options else ffi.NULL)
        self._send_lossless = lib.tox_friend_send_lossless_packet
        self._send_lossy = lib.tox_friend_send_lossy_packet
        self._raised: list[BaseException] = []
        self._callbacks: list[Any] = []  # toxcore calls these for as long as the instance lives
        self._install_friend_callbacks()
        self._install_conference_callbacks()
        if hasattr(lib, "tox_group_new"):
            self._install_group_callbacks()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        exc_traceback: TracebackType | None,
    ) -> None:
        if self._ptr:
            self._lib.tox_kill(self._ptr)
            forget(self._ptr)
            self._ptr = None
            self._callbacks.clear()  # and with them the cycle through our own handlers

    def _get(self) -> Any:
        if not self._ptr:
            raise UseAfterFree
        return self._ptr

    # The instance

    @property
    def iteration_interval(self) -> int:
        """Milliseconds until toxcore wants `iterate` called again, at the latest."""
        return int(self._lib.tox_iteration_interval(self._get()))

    def iterate(self) -> None:
        """Receive, call the handlers, send what is due; then raise what handlers raised."""
        self._lib.tox_iterate(self._get(), ffi.NULL)
        if self._raised:
            raised, self._raised = self._raised, []
            if len(raised) == 1:
                raise raised[0]
            raise BaseExceptionGroup("several handlers of toxcore's events failed", raised)

    @property
    def savedata(self) -> bytes:
        """Keys, friends, groups, known nodes: everything that must outlive the process."""
        size = self._lib.tox_get_savedata_size(self._get())
        return fixed(size, lambda data: self._lib.tox_get_savedata(self._get(), data))

    def bootstrap(self, host: str, port: int, public_key: bytes) -> bool:
        """Ask a node for others. Resolves `host`, which blocks when it is a name."""
        expect("public_key", public_key, PUBLIC_KEY_SIZE)
        function = self._lib.tox_bootstrap
        return bool(call("TOX_ERR_BOOTSTRAP", function, self._get(), host.encode(), port, public_key))

    def add_tcp_relay(self, host: str, port: int, public_key: bytes) -> bool:
        """Use a node as a relay. Resolves `host`, which blocks when it is a name."""
        expect("public_key", public_key, PUBLIC_KEY_SIZE)
        function = self._lib.tox_add_tcp_relay
        return bool(call("TOX_ERR_BOOTSTRAP", function, self._get(), host.encode(), port, public_key))

    @property
    def connection_status(self) -> Tox_Connection:
        """Whether, and how, we are connected to the network."""
        return Tox_Connection(self._lib.tox_self_get_connection_status(self._get()))

    @property
    def address(self) -> bytes:
        """What others add us by: public key, nospam, checksum (38 bytes)."""
        return fixed(ADDRESS_SIZE, lambda data: self._lib.tox_self_get_address(self._get(), data))

    @property
    def nospam(self) -> int:
        """The part of the address that can be changed: who has an old one reaches us no longer."""
        return int(self._lib.tox_self_get_nospam(self._get()))

    @nospam.setter
    def nospam(self, nospam: int) -> None:
        self._lib.tox_self_set_nospam(self._get(), nospam)

    @property
    def public_key(self) -> bytes:
        """Our long-term key."""
        return fixed(PUBLIC_KEY_SIZE, lambda data: self._lib.tox_self_get_public_key(self._get(), data))

    @property
    def secret_key(self) -> bytes:
        """The secret half of it."""
        return fixed(PUBLIC_KEY_SIZE, lambda data: self._lib.tox_self_get_secret_key(self._get(), data))

    @property
    def dht_id(self) -> bytes:
        """Our key as a node of the DHT, new in each run; others bootstrap with it."""
        return fixed(PUBLIC_KEY_SIZE, lambda data: self._lib.tox_self_get_dht_id(self._get(), data))

    @property
    def udp_port(self) -> int:
        """The port of our UDP socket. Raises GetPortNotBound when UDP is off."""
        return int(call("TOX_ERR_GET_PORT", self._lib.tox_self_get_udp_port, self._get()))

    @property
    def tcp_port(self) -> int:
        """The port we relay at. Raises GetPortNotBound when we do not."""
        return int(call("TOX_ERR_GET_PORT", self._lib.tox_self_get_tcp_port, self._get()))

    @property
    def name(self) -> bytes:
        """Our nickname, at most 128 bytes."""
        size = self._lib.tox_self_get_name_size(self._get())
        return fixed(size, lambda data: self._lib.tox_self_get_name(self._get(), data))

    @name.setter
    def name(self, name: bytes) -> None:
        call("TOX_ERR_SET_INFO", self._lib.tox_self_set_name, self._get(), name, len(name))

    # Friends

    def friend_add(self, address: bytes, message: bytes) -> int:
        """Add a friend and keep sending a request until it is answered."""
        expect("address", address, ADDRESS_SIZE)
        function = self._lib.tox_friend_add
        return int(call("TOX_ERR_FRIEND_ADD", function, self._get(), address, message, len(message)))

    def friend_add_norequest(self, public_key: bytes) -> int:
        """Add a friend whose request is accepted thereby, or who adds us as well."""
        expect("public_key", public_key, PUBLIC_KEY_SIZE)
        return int(call("TOX_ERR_FRIEND_ADD", self._lib.tox_friend_add_norequest, self._get(), public_key))

    def friend_delete(self, friend_number: int) -> None:
        """Forget a friend, without telling it."""
        call("TOX_ERR_FRIEND_DELETE", self._lib.tox_friend_delete, self._get(), friend_number)

    @property
    def friend_list(self) -> list[int]:
        """The numbers of all friends."""
        numbers = ffi.new("uint32_t[]", self._lib.tox_self_get_friend_list_size(self._get()))
        self._lib.tox_self_get_friend_list(self._get(), numbers)
        return list(numbers)

    def friend_get_public_key(self, friend_number: int) -> bytes:
        """Return a friend's long-term key."""
        family, function = "TOX_ERR_FRIEND_GET_PUBLIC_KEY", self._lib.tox_friend_get_public_key
        return fixed(PUBLIC_KEY_SIZE, lambda data: call(family, function, self._get(), friend_number, data))

    def friend_get_name(self, friend_number: int) -> bytes:
        """Return the name a friend gave itself: any bytes, at most 128."""
        family, function = "TOX_ERR_FRIEND_QUERY", self._lib.tox_friend_get_name
        size = call(family, self._lib.tox_friend_get_name_size, self._get(), friend_number)
        return fixed(size, lambda data: call(family, function, self._get(), friend_number, data))

    def friend_send_lossy_packet(self, friend_number: int, data: bytes) -> None:
        """Send a packet that may be lost: first byte 200 to 254, at most 1373 bytes."""
        if not self._send_lossy(self._ptr or self._get(), friend_number, data, len(data), error):
            raise_code("TOX_ERR_FRIEND_CUSTOM_PACKET", error[0])

    def friend_send_lossless_packet(self, friend_number: int, data: bytes) -> None:
        """Queue a packet that arrives in order, unless the friend goes offline: first byte 160 to 191."""
        if not self._send_lossless(self._ptr or self._get(), friend_number, data, len(data), error):
            raise_code("TOX_ERR_FRIEND_CUSTOM_PACKET", error[0])

    # Events: override these

    def handle_self_connection_status(self, connection_status: Tox_Connection) -> None:
        """We are connected to the network, or no longer."""

    def handle_friend_request(self, public_key: bytes, message: bytes) -> None:
        """Someone asks to be our friend."""

    def handle_friend_name(self, friend_number: int, name: bytes) -> None:
        """A friend has another name."""

    def handle_friend_connection_status(self, friend_number: int, connection_status: Tox_Connection) -> None:
        """A friend is online, offline, or reached in another way."""

    def handle_friend_lossy_packet(self, friend_number: int, data: bytes) -> None:
        """A packet that may have lost companions; first byte 200 to 254."""

    def handle_friend_lossless_packet(self, friend_number: int, data: bytes) -> None:
        """A packet in order; first byte 160 to 191."""

    def _on(self, event: str, function: Callable[..., None]) -> None:
        called = callback(event, self._ptr, function, self._note)
        self._callbacks.append(called)
        getattr(self._lib, f"tox_callback_{event}")(self._ptr, called)

    def _note(self, _type: type[BaseException], raised: BaseException, _traceback: TracebackType) -> None:
        self._raised.append(raised)  # it must not pass through C: `iterate` raises it

    def _install_friend_callbacks(self) -> None:
        def connection(_tox: Any, status: int, _data: Any) -> None:
            self.handle_self_connection_status(Tox_Connection(status))

        def request(_tox: Any, key: Any, message: Any, length: int, _data: Any) -> None:
            self.handle_friend_request(buffer(key, PUBLIC_KEY_SIZE)[:], buffer(message, length)[:])

        def name(_tox: Any, friend: int, name: Any, length: int, _data: Any) -> None:
            self.handle_friend_name(friend, buffer(name, length)[:])

        def friend_connection(_tox: Any, friend: int, status: int, _data: Any) -> None:
            self.handle_friend_connection_status(friend, Tox_Connection(status))

        def lossy(_tox: Any, friend: int, data: Any, length: int, _data: Any) -> None:
            self.handle_friend_lossy_packet(friend, buffer(data, length)[:])

        def lossless(_tox: Any, friend: int, data: Any, length: int, _data: Any) -> None:
            self.handle_friend_lossless_packet(friend, buffer(data, length)[:])

        self._on("self_connection_status", connection)
        self._on("friend_request", request)
        self._on("friend_name", name)
        self._on("friend_connection_status", friend_connection)
        self._on("friend_lossy_packet", lossy)
        self._on("friend_lossless_packet", lossless)

"""What a Tox instance is started with, in the shape of pytox's `Tox_Options_Ptr`."""

from types import TracebackType
from typing import Any, Self

from tunfwd.tox.binding.calls import buffer, call
from tunfwd.tox.binding.errors import UseAfterFree
from tunfwd.tox.binding.opening import ffi, load


class _Option:
    """One field of `Tox_Options`, through its accessor functions."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, options: "Tox_Options_Ptr", owner: type) -> Any:
        return getattr(options._lib, f"tox_options_get_{self._name}")(options._get())

    def __set__(self, options: "Tox_Options_Ptr", value: Any) -> None:
        getattr(options._lib, f"tox_options_set_{self._name}")(options._get(), value)


class Tox_Options_Ptr:
    """What an instance is started with; toxcore's defaults until set."""

    ipv6_enabled = _Option()
    udp_enabled = _Option()
    local_discovery_enabled = _Option()
    proxy_type = _Option()
    proxy_port = _Option()
    start_port = _Option()
    end_port = _Option()
    tcp_port = _Option()
    savedata_type = _Option()
    experimental_groups_persistence = _Option()

    def __init__(self) -> None:
        self._lib = load()
        self._ptr = call("TOX_ERR_OPTIONS_NEW", self._lib.tox_options_new)
        self._kept: dict[str, Any] = {}  # toxcore keeps pointers to these, not copies

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        exc_traceback: TracebackType | None,
    ) -> None:
        if self._ptr:
            self._lib.tox_options_free(self._ptr)
            self._ptr = None

    def _get(self) -> Any:
        if not self._ptr:
            raise UseAfterFree
        return self._ptr

    @property
    def proxy_host(self) -> str:
        """Name or address of the proxy; needed with every proxy type but NONE."""
        host = self._lib.tox_options_get_proxy_host(self._get())
        return ffi.string(host).decode() if host else ""

    @proxy_host.setter
    def proxy_host(self, host: str) -> None:
        self._kept["proxy_host"] = ffi.new("char[]", host.encode())
        self._lib.tox_options_set_proxy_host(self._get(), self._kept["proxy_host"])

    @property
    def savedata_data(self) -> bytes:
        """What `Tox_Ptr.savedata` gave, or a secret key, as `savedata_type` says."""
        return bytes(buffer(self._kept["savedata"])) if "savedata" in self._kept else b""

    @savedata_data.setter
    def savedata_data(self, data: bytes) -> None:
        self._kept["savedata"] = ffi.new("uint8_t[]", data)
        self._lib.tox_options_set_savedata_data(self._get(), self._kept["savedata"], len(data))

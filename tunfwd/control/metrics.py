"""The daemon's figures in the text format of Prometheus, from the answers of the control socket.

Names and units go by Prometheus' conventions: `_total` only ever grows while its series lasts, seconds and
bytes, ratios from 0 to 1. What has ended has no series any more. docs/metrics.md lists them.
"""

from collections.abc import Iterable, Iterator
from typing import Final

from prometheus_client import generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector, CollectorRegistry

from tunfwd.control.api import MappingsResult, StatusResult, VersionResult

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
CONTACT: Final = ("contact", "kind")
PORT: Final = ("contact", "protocol", "port", "name", "side")


def exposition(status: StatusResult, ports: MappingsResult, version: VersionResult) -> bytes:
    """Return the text: UTF-8, a line for each figure."""
    registry = CollectorRegistry()
    registry.register(_Answers(status, ports, version))
    return generate_latest(registry)


class _Answers(Collector):
    """What the library asks for metrics."""

    def __init__(self, status: StatusResult, ports: MappingsResult, version: VersionResult) -> None:
        self._status = status
        self._ports = ports
        self._version = version

    def collect(self) -> Iterable[Metric]:
        """Return all metrics."""
        return [*self._of_the_daemon(), *self._of_contacts(), *self._of_ports()]

    def _of_the_daemon(self) -> Iterator[Metric]:
        status, version = self._status, self._version
        build = GaugeMetricFamily(
            "tunfwd_build_info", "Which program runs; always 1.", labels=("version", "toxcore", "compiled")
        )
        build.add_metric(
            (version["version"], version["toxcore"], "true" if version["compiled"] else "false"), 1
        )
        yield build
        yield GaugeMetricFamily(
            "tunfwd_network_up", "Whether we are in the Tox network.", value=status["network"] == "online"
        )
        if (load := status.get("load")) is not None:
            yield GaugeMetricFamily(
                "tunfwd_flows", "Connections and UDP flows with all contacts.", value=load["flows"]
            )
            yield GaugeMetricFamily(
                "tunfwd_local_connections",
                "TCP connections between virtual addresses and programs of this machine.",
                value=load["connections"],
            )
            yield GaugeMetricFamily("tunfwd_timers", "Timers that are set.", value=load["timers"])
        drops = CounterMetricFamily(
            "tunfwd_drops", "Packets and requests that were dropped, by reason.", labels=("reason",)
        )
        for reason, count in status["drops"].items():
            drops.add_metric((reason,), count)
        yield drops

    def _of_contacts(self) -> Iterator[Metric]:
        up = GaugeMetricFamily("tunfwd_contact_up", "Whether the contact is online.", labels=CONTACT)
        direct = GaugeMetricFamily(
            "tunfwd_contact_direct",
            "1 where packets go straight to the contact, 0 through a relay.",
            labels=CONTACT,
        )
        path = GaugeMetricFamily(
            "tunfwd_contact_path_seconds", "For how long the path has been this one.", labels=CONTACT
        )
        rtt = GaugeMetricFamily(
            "tunfwd_contact_rtt_seconds", "The link's smoothed round-trip time.", labels=CONTACT
        )
        loss = GaugeMetricFamily(
            "tunfwd_contact_loss_ratio",
            "The part of the bytes sent over the present path that was lost.",
            labels=CONTACT,
        )
        window = GaugeMetricFamily(
            "tunfwd_contact_window_bytes", "How much may be in flight to the contact.", labels=CONTACT
        )
        ports = GaugeMetricFamily("tunfwd_contact_ports", "Accepted ports, both ways.", labels=CONTACT)
        flows = GaugeMetricFamily(
            "tunfwd_contact_connections", "Connections and UDP flows with the contact.", labels=CONTACT
        )
        for contact in self._status["contacts"]:
            name = contact["name"] if contact["kind"] == "friend" else f"{contact['via']}/{contact['name']}"
            labels = name, contact["kind"]
            online = contact["link"] != "offline"
            up.add_metric(labels, online)
            ports.add_metric(labels, contact["ports"])
            flows.add_metric(labels, contact["connections"])
            if online:
                direct.add_metric(labels, contact["link"] == "direct")
            for family, value in (
                (path, contact.get("path_seconds")),
                (rtt, contact.get("rtt")),
                (loss, contact.get("loss")),
                (window, contact.get("window")),
            ):
                if value is not None:
                    family.add_metric(labels, value)
        yield from (up, direct, path, rtt, loss, window, ports, flows)

    def _of_ports(self) -> Iterator[Metric]:
        up = GaugeMetricFamily("tunfwd_port_up", "Whether the port can be used now.", labels=PORT)
        connections = GaugeMetricFamily(
            "tunfwd_port_connections", "Connections and UDP flows through the port.", labels=PORT
        )
        received = CounterMetricFamily(
            "tunfwd_port_receive_bytes", "Bytes of data from the contact.", labels=PORT
        )
        sent = CounterMetricFamily("tunfwd_port_transmit_bytes", "Bytes of data to the contact.", labels=PORT)
        dropped = CounterMetricFamily("tunfwd_port_drops", "Datagrams that were dropped here.", labels=PORT)
        for port in self._ports["ports"]:
            labels = (
                port["contact"],
                port["protocol"],
                str(port["port"]),
                port["name"],
                "theirs" if port["target"] is None else "ours",
            )
            up.add_metric(labels, port["state"] == "running")
            connections.add_metric(labels, port["connections"])
            received.add_metric(labels, port["rx_bytes"])
            sent.add_metric(labels, port["tx_bytes"])
            dropped.add_metric(labels, port["drops"])
        yield from (up, connections, received, sent, dropped)

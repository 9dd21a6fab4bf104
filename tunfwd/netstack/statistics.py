"""What happened to packets, in numbers."""

from dataclasses import dataclass


@dataclass(slots=True)
class Statistics:
    """Counts since the start. Frames that count nowhere else were delivered."""

    frames: int = 0
    malformed: int = 0
    bad_checksum: int = 0
    bad_source: int = 0
    """From an address that cannot be a host's, or from one of the network that we stand for."""
    foreign_source: int = 0
    """From another machine, for which ours forwards, and is not to."""
    noise: int = 0
    """Multicast and broadcast, which nobody here answers."""
    unknown_protocol: int = 0
    host_unreachable: int = 0
    """For a host that is offline or does not exist."""
    fragments: int = 0
    fragments_dropped: int = 0
    """Packets whose fragments contradicted each other, or never were complete."""
    syns_dropped: int = 0
    """For want of room."""
    resets_sent: int = 0
    """For segments that belong to no connection."""
    icmp_ignored: int = 0
    echo_requests_dropped: int = 0
    """For want of room, before they were answered."""
    datagrams_dropped: int = 0
    """For want of room, either way."""
    errors_suppressed: int = 0
    """ICMP errors above the rate."""
    frames_dropped: int = 0
    """Resets and echo replies, for want of room."""
    connections: int = 0
    """At present."""
    incoming: int = 0
    """At present: SYNs that wait for the owner."""
    timers: int = 0
    """At present: entries for the timers of connections."""

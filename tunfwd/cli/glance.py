"""`tunfwd status`: every contact, at a glance. Without click, which takes longer than all of it."""

from tunfwd.cli.output import note, show, show_table, size, span
from tunfwd.cli.session import Session
from tunfwd.control.glance import STATUS, ContactEntry, StatusResult, Waiting


def status(session: Session, as_json: bool) -> None:
    """Show every contact: address, link, traffic."""
    show(session.call(STATUS), as_json, _status)


def _status(result: StatusResult) -> None:
    if result["network"] == "offline":
        told = result.get("offline", "not connected to the Tox network (yet). If it stays so: tunfwd doctor")
        note(f"{told[:1].upper()}{told[1:]}")
    for warning in result.get("warnings", []):
        note(f"Warning: {warning}")
    for group in result.get("groups", []):
        if group["state"] == "lost":
            note(f"{group['kind']} {group['name']} is lost: {group['reason'] or 'no reason was given'}")
    show_table(
        ("IP", "NAME", "VIA", "LINK", "PORTS", "CONNS", "TX", "RX"),
        (
            [
                contact["address"],
                contact["name"],
                contact["via"],
                _link(contact),
                contact["ports"],
                contact["connections"],
                size(contact["tx_bytes"]),
                size(contact["rx_bytes"]),
            ]
            for contact in result["contacts"]
        ),
        empty="No contacts. Ask someone with: tunfwd friend add ADDRESS; who asks you: tunfwd friend list",
    )
    for entry in result.get("lan", []):
        whom = f"{_count(entry['contacts'], 'contact')} {span(entry['seconds'])} ago"
        note(f"Broadcasts to {entry['port']}/udp went to {whom} ({entry['copies']} copies in all)")
    if over_rate := result["drops"].get("broadcasts_over_rate"):
        note(f"{_count(over_rate, 'broadcast')} went to nobody: there were too many at once")
    if denied := result["drops"].get("broadcasts_denied"):
        note(f"{_count(denied, 'broadcast')} went to nobody: to a port that contacts are never asked at")
    if waiting := result.get("waiting"):
        _tell_waiting(waiting)
    if faults := result["drops"].get("faults"):
        note(
            f"{_count(faults, 'mistake')} in the program ended what came to light; the log has the traceback"
        )


def _tell_waiting(waiting: Waiting) -> None:
    """Say what waits for a person, and where it is answered."""
    parts = [
        f"{_count(number, what)} (tunfwd {command})"
        for number, what, command in (
            (waiting["friend_requests"], "friend request", "friend list"),
            (waiting["offers"], "offer", "offers"),
            (waiting["invitations"], "invitation", "group list"),
        )
        if number
    ]
    if parts:
        note(f"Waiting for you: {', '.join(parts)}")


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _link(contact: ContactEntry) -> str:
    link: str = contact["link"]
    if contact["offline_seconds"] is not None:
        link += f" {span(contact['offline_seconds'])}"
    if contact["connections"] and (kept := contact.get("kept_seconds")) is not None:
        link += f", connections kept {span(kept)} more"
    if silent := contact.get("silent_seconds"):
        link += f", silent for {span(silent)}"
    if reason := contact.get("reason"):
        link += f" ({reason})"
    return link

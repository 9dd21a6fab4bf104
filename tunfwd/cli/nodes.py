"""`tunfwd nodes`: the nodes by which we join the Tox network, and lists of others."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from tunfwd.cli.arguments import json_option
from tunfwd.cli.output import hint, note, say, show, show_table
from tunfwd.cli.session import Session
from tunfwd.common.errors import UserError
from tunfwd.control import api

if TYPE_CHECKING:
    from tunfwd.tox.nodes import ListedNode

LIST_URL: Final = "https://nodes.tox.chat/json"
TEST_TIME: Final = 20.0  # s for the daemon to ask all nodes


@click.group(invoke_without_command=True, no_args_is_help=False)
@click.option("--test", is_flag=True, help="Ask every node whether it is there, over UDP and TCP.")
@json_option
@click.pass_context
def nodes(ctx: click.Context, test: bool, as_json: bool) -> None:
    """List the nodes by which the network is joined."""
    if ctx.invoked_subcommand is None:
        show(Session.of(ctx).call(api.NODES, patience=TEST_TIME, test=test), as_json, _table)


@nodes.command()
@click.argument("source", metavar="[URL|FILE]", default=LIST_URL)
@json_option
@click.pass_context
def update(ctx: click.Context, source: str, as_json: bool) -> None:
    """Add nodes from a list, as https://nodes.tox.chat/json is one.

    Those that came with tunfwd stay. A URL is fetched by this command, over HTTPS; the FILE - is the standard
    input. Nothing is ever fetched by itself.
    """
    session = Session.of(ctx)
    listed = _read(session, source)
    show(session.call(api.NODES_UPDATE, nodes=listed), as_json, _updated)


def _read(session: Session, source: str) -> list[dict[str, Any]]:
    """Return the nodes of a list, as they are sent. Raises UserError."""
    from tunfwd.tox.nodes import ListError, read_file  # noqa: PLC0415  only this command reads lists

    try:
        found = (
            read_file(Path(source)) if source != "-" and "://" not in source else _fetched(session, source)
        )
    except ListError as wrong:
        raise UserError("failed", f"{wrong}; nothing is changed") from None
    return [node.document() for node in found]


def _fetched(session: Session, source: str) -> "tuple[ListedNode, ...]":
    """Return the nodes of a list from the standard input, or the web. Raises ListError, UserError."""
    from tunfwd.tox.nodes import MAX_LIST, ListError, read_list  # noqa: PLC0415

    if source == "-":
        data, source = sys.stdin.buffer.read(MAX_LIST + 1), "what the standard input gives"
    elif session.call(api.NODES)["proxy"]:
        raise UserError(
            "denied",
            f"{source} is not fetched, as that would go around [tox] proxy: fetch it through that,"
            " and give the file",
        )
    else:
        from tunfwd.cli.download import download  # noqa: PLC0415  slow to import

        data = download(source, MAX_LIST + 1)
    try:
        return read_list(data)
    except ListError as wrong:
        raise ListError(f"{source} {wrong}") from None


def _table(result: api.NodesResult) -> None:
    show_table(
        ("NODE", "FROM", "WHERE", "ASKED", "RELAY", "UDP", "TCP", "NOTE"),
        (
            [
                _place(node),
                node["origin"],
                node["location"],
                node["asked"],
                "connected" if node["relay"] else None,
                node["udp"],
                _tcp(node),
                node["error"],
            ]
            for node in result["nodes"]
        ),
        empty="No nodes: [tox] public_nodes is off, and bootstrap names none.",
    )
    if not result["public_nodes"] and result["nodes"]:
        note("Those that came with tunfwd are not used: [tox] public_nodes is off.")
    if all(node["udp"] is None and not node["tcp"] for node in result["nodes"]):
        hint("Ask each whether it is there with: tunfwd nodes --test")


def _place(node: api.NodeEntry) -> str:
    host = node["hosts"][0]
    port = node["port"] or node["tcp_ports"][0]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _tcp(node: api.NodeEntry) -> str | None:
    """Return the answers by port, those that are alike together."""
    by_answer: dict[str, list[str]] = {}
    for port, answer in node["tcp"].items():
        by_answer.setdefault(answer, []).append(port)
    return ", ".join(f"{answer} ({', '.join(ports)})" for answer, ports in by_answer.items()) or None


def _updated(result: api.NodesUpdateResult) -> None:
    new, total = len(result["added"]), result["total"]
    say(f"{new} new, {total} added in all; those that came with tunfwd are there as before")
    if not result["public_nodes"]:
        note("They are kept, and not used: [tox] public_nodes is off.")

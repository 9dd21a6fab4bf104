"""Errors carry toxcore's own names, whether the program knows them or not."""

import enum
from collections.abc import Callable

import pytest

from tunfwd.tox.binding import errors
from tunfwd.tox.binding.instance import Tox_Options_Ptr, Tox_Ptr


def test_number_becomes_the_declared_class() -> None:
    with pytest.raises(errors.FriendCustomPacketSendq) as raised:
        errors.raise_code("TOX_ERR_FRIEND_CUSTOM_PACKET", 7)
    assert str(raised.value) == raised.value.code.name == "TOX_ERR_FRIEND_CUSTOM_PACKET_SENDQ"


def test_undeclared_name_becomes_a_class_once() -> None:
    caught = []
    for _ in range(2):
        with pytest.raises(errors.ToxError) as raised:
            errors.raise_code("TOX_ERR_GROUP_INVITE_FRIEND", 3)
        caught.append(type(raised.value))
    assert caught[0] is caught[1]
    assert caught[0].__name__ == "GroupInviteFriendInviteFail"


def test_number_of_a_later_toxcore_is_an_error_all_the_same() -> None:
    with pytest.raises(errors.ToxError, match="TOX_ERR_FRIEND_ADD_UNKNOWN"):
        errors.raise_code("TOX_ERR_FRIEND_ADD", 99)


def test_any_enumeration_will_do() -> None:
    Tox_Err_Friend_Add = enum.Enum("Tox_Err_Friend_Add", {"TOX_ERR_FRIEND_ADD_OWN_KEY": 4})
    assert isinstance(
        errors.from_code(Tox_Err_Friend_Add["TOX_ERR_FRIEND_ADD_OWN_KEY"]), errors.FriendAddOwnKey
    )


@pytest.mark.parametrize(
    "declared", [c for c in errors.ToxError.__subclasses__() if c is not errors.NoGroups]
)
def test_every_declared_class_is_reachable_by_its_name(declared: type[errors.ToxError]) -> None:
    names = [member for family in errors.CODES.values() for member in family]
    made = [errors.from_code(member) for member in names if not member.name.endswith("_OK")]
    assert any(type(error) is declared for error in made)


def test_numbers_are_those_of_the_library() -> None:
    """One call of each family that can be made to fail without a network."""
    with Tox_Options_Ptr() as options:
        options.local_discovery_enabled = False
        options.savedata_type = 1
        options.savedata_data = b"no savedata"
        with pytest.raises(errors.NewLoadBadFormat):
            Tox_Ptr(options)
    with Tox_Options_Ptr() as options:
        options.udp_enabled = False
        tox = Tox_Ptr(options)
    with tox:
        refused: dict[type[errors.ToxError], Callable[[], object]] = {
            errors.GetPortNotBound: lambda: tox.udp_port,
            errors.FriendAddOwnKey: lambda: tox.friend_add(tox.address, b"hello"),
            errors.FriendAddBadChecksum: lambda: tox.friend_add(bytes(37) + b"\1", b"hello"),
            errors.FriendCustomPacketFriendNotFound: lambda: tox.friend_send_lossy_packet(0, b"\xc8"),
            errors.GroupStateQueryGroupNotFound: lambda: tox.group_get_name(0),
            errors.GroupSendCustomPacketGroupNotFound: lambda: tox.group_send_custom_packet(0, True, b"x"),
            errors.GroupSendCustomPrivatePacketGroupNotFound: lambda: tox.group_send_custom_private_packet(
                0, 0, True, b"x"
            ),
        }
        for error, call in refused.items():
            with pytest.raises(error):
                call()
        with pytest.raises(errors.ToxError, match="TOX_ERR_SET_INFO_TOO_LONG"):
            tox.name = b"x" * 129
        with pytest.raises(errors.ToxError, match="TOX_ERR_GROUP_NEW_EMPTY"):
            tox.group_new(0, b"name", b"")  # type: ignore[arg-type]
        with pytest.raises(errors.ToxError, match="TOX_ERR_CONFERENCE_DELETE_CONFERENCE_NOT_FOUND"):
            tox.conference_delete(0)
        number = tox.conference_new()
        with pytest.raises(errors.ConferenceTitleInvalidLength):
            tox.conference_get_title(number)
        with pytest.raises(ValueError, match="public_key has 31 bytes"):
            tox.friend_add_norequest(bytes(31))
    with pytest.raises(errors.UseAfterFree):
        tox.iterate()

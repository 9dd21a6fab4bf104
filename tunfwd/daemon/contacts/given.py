"""The names that a person here gave friends, by what they are taken for: nobody else may be called so."""

from tunfwd.common.names import SYNTAX, folded
from tunfwd.daemon.storage.state import ContactId


class GivenNames:
    """The friends among the names in the state, which is changed here alone as far as they are concerned."""

    def __init__(self, names: dict[ContactId, str]) -> None:
        self._names = names
        self._owners: dict[str, set[ContactId]] = {}
        for contact, name in names.items():
            self._note(contact, name)

    def _note(self, contact: ContactId, name: str) -> None:
        if SYNTAX.isdisjoint(contact):  # of no room, nor of a member of one
            self._owners.setdefault(folded(name), set()).add(contact)

    def give(self, contact: ContactId, name: str) -> None:
        """Call a friend so from now on."""
        self.take(contact)
        self._names[contact] = name
        self._note(contact, name)

    def take(self, contact: ContactId) -> None:
        """Forget what a contact was called, where it was called anything."""
        name = folded(self._names.pop(contact, ""))
        owners = self._owners.get(name, set())
        owners.discard(contact)
        if not owners:
            self._owners.pop(name, None)

    def is_taken(self, name: str, contact: ContactId) -> bool:
        """Whether a person gave a folded name to another friend."""
        return bool(self._owners.get(name, set()) - {contact})

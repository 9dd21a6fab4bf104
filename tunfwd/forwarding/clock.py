"""What time it is for one session. Whoever calls a session tells it; its parts read it here."""


class Clock:
    """The moment of the call that is being served, in seconds on the owner's monotonic clock.

    All that follows from one call happens at one moment. Set first thing in each call of `Session` and
    `FlowTable` that tells the time, and nowhere else; what is called without one, as a read or a reset of a
    flow is, happens at that of the last call.
    """

    __slots__ = ("now",)

    def __init__(self) -> None:
        self.now = 0.0

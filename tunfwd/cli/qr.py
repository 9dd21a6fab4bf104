"""QR codes in the terminal, for a phone or another machine's camera. segno draws them."""

import io
from typing import Final

LIGHT_ON_DARK: Final = "\x1b[97;40m"  # segno's blocks are the light part, whatever the terminal's colours are
AS_BEFORE: Final = "\x1b[0m"


def show_qr(text: str) -> None:
    """Draws a text as a QR code, in half blocks."""
    import segno  # noqa: PLC0415  only a code pays for it

    drawn = io.StringIO()
    segno.make_qr(text, error="l").terminal(out=drawn, border=2, compact=True)
    for line in drawn.getvalue().splitlines():
        print(f"{LIGHT_ON_DARK}{line}{AS_BEFORE}")


def rows(text: str) -> list[str]:
    """Return a text as a QR code, a string of 0 and 1 for each row, without its quiet zone."""
    import segno  # noqa: PLC0415

    return ["".join("1" if dark else "0" for dark in row) for row in segno.make_qr(text, error="l").matrix]

"""Fetches one small file over HTTPS, for a command; the daemon never does."""

import http.client
import time
import urllib.error
import urllib.request
from typing import Any, Final

from tunfwd.common.errors import UserError

WHOLE_TIME: Final = 30.0  # s for all of it
STEP_TIME: Final = 10.0  # s for each step, such as connecting
_CHUNK: Final = 64 << 10  # bytes


def download(url: str, limit: int) -> bytes:
    """Return at most `limit` bytes of what is at `url`, which has to be https://, as all it leads to.

    Raises UserError with one line for whatever keeps us from it.
    """
    _require_https(url)
    opener = urllib.request.build_opener(_HttpsAlone)
    opener.addheaders = [("User-Agent", "tunfwd"), ("Accept", "application/json")]
    try:
        with opener.open(url, timeout=STEP_TIME) as answer:
            return _body(answer, limit, time.monotonic() + WHOLE_TIME)
    except urllib.error.HTTPError as failure:
        raise UserError("failed", f"{url}: the server says {failure.code} {failure.reason}") from None
    except http.client.IncompleteRead:
        raise UserError("failed", f"{url}: the connection ended before the file did") from None
    except (OSError, http.client.HTTPException, ValueError) as failure:
        reason = getattr(failure, "reason", None) or failure
        told = getattr(reason, "strerror", None) or reason or type(failure).__name__
        raise UserError("failed", f"{url}: {told}") from None


def _require_https(url: str) -> None:
    if not url.lower().startswith("https://"):
        raise UserError("usage", f"{url}: only https:// is fetched; anything else could come from anybody")


class _HttpsAlone(urllib.request.HTTPRedirectHandler):
    """Follows redirections, but not out of HTTPS."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        _require_https(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _body(answer: http.client.HTTPResponse, limit: int, deadline: float) -> bytes:
    data = b""
    while len(data) < limit:
        chunk = answer.read1(min(_CHUNK, limit - len(data)))
        if not chunk:
            if answer.length:
                raise http.client.IncompleteRead(data, answer.length)
            break
        data += chunk
        if time.monotonic() > deadline:
            raise TimeoutError(f"not done within {WHOLE_TIME:.0f} s")
    return data

"""Decides whose requests are answered: before any other part of the page sees them.

Whoever can have this machine connect to loopback may be anybody: other users of it, and every web site that
its user has open. A request passes that names this host (no name that was made to lead here: DNS rebinding),
that no other site has sent (Origin, Sec-Fetch-Site), and that brings the token, or the cookie given for it.
"""

import hmac
import re
import secrets
from typing import Final, NamedTuple

from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Cache-Control": "no-store",
}
_HOSTS: Final = re.compile(r"(127\.0\.0\.1|localhost)(:\d{1,5})?")  # any port: ssh -L may have another


class Refusal(NamedTuple):
    """Why a request is not answered."""

    status: int
    text: str


NO_HOST: Final = Refusal(421, "This is only answered as 127.0.0.1 or localhost.")
OTHER_SITE: Final = Refusal(403, "Another web site has sent this request.")
NO_TOKEN: Final = Refusal(
    403,
    "The token is missing, or is not the one of this run.\n\n"
    "Open the address that `tunfwd web` has printed; each start has a new one.",
)


class Tokens:
    """What lets a browser in: a token in the address, once, or for as long as we run; a cookie afterwards.

    Browsers send a cookie to all ports of a host, and another user may have a server at one of them. So all
    is below a path that is not known there, and the cookie is for that path alone.
    """

    def __init__(self, port: int) -> None:
        self.token = secrets.token_urlsafe(32)
        """For the person, who reads it where `tunfwd web` runs."""
        self.entrance = f"/{secrets.token_urlsafe(9)}/"
        """The only path that a token is taken at, and that a link of another program or site may lead to."""
        self._once: str | None = None
        self._cookie = secrets.token_urlsafe(32)
        self._name = f"tunfwd-{port}"

    def once(self) -> str:
        """Return a token that is good for one use.

        For the command line of a browser, which every user of this machine can read for a while.
        """
        self._once = secrets.token_urlsafe(32)
        return self._once

    def admits(self, token: str) -> bool:
        """Whether a token is right; one that is good for once no longer is afterwards."""
        if self._once is not None and _same(token, self._once):
            self._once = None
            return True
        return _same(token, self.token)

    def known(self, cookies: dict[str, str]) -> bool:
        """Whether a browser has been let in before."""
        return _same(cookies.get(self._name, ""), self._cookie)

    @property
    def cookie(self) -> str:
        """The header's value. Strict: links of other sites do not bring it; no script sees it."""
        return f"{self._name}={self._cookie}; Path={self.entrance}; HttpOnly; SameSite=Strict"


class Gate:
    """Stands before the application, and adds to all of its answers what keeps the browser careful."""

    def __init__(self, app: ASGIApp, tokens: Tokens) -> None:
        self._app = app
        self._tokens = tokens

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or have the application do so."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        extra = dict(HEADERS)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                ours = [(name.lower().encode(), value.encode()) for name, value in extra.items()]
                message["headers"] = [*message["headers"], *ours]
            await send(message)

        request = HTTPConnection(scope)
        refusal = judge(request, self._tokens.entrance)
        if refusal is None and not self._tokens.known(request.cookies):
            at_entrance = scope["path"] == self._tokens.entrance
            if at_entrance and self._tokens.admits(request.query_params.get("token", "")):
                extra["Set-Cookie"] = self._tokens.cookie
            else:
                refusal = NO_TOKEN
        if refusal is None:
            await self._app(scope, receive, send_with_headers)
        else:
            answer = PlainTextResponse(f"{refusal.text}\n", refusal.status)
            await answer(scope, receive, send_with_headers)


def judge(request: HTTPConnection, entrance: str) -> Refusal | None:
    """Return why a request is refused whatever token it has, or None."""
    hosts = request.headers.getlist("host")
    if len(hosts) != 1 or _HOSTS.fullmatch(hosts[0]) is None:
        return NO_HOST
    origins = request.headers.getlist("origin")
    if any(origin != f"http://{hosts[0]}" for origin in origins):
        return OTHER_SITE
    method, path = request.scope["method"], request.scope["path"]
    if method not in ("GET", "HEAD") and not origins:  # browsers always say it there
        return OTHER_SITE
    site = request.headers.get("sec-fetch-site", "none")
    if path != entrance and site not in ("same-origin", "none"):
        return OTHER_SITE
    return None


def _same(given: str, known: str) -> bool:
    return hmac.compare_digest(given.encode(), known.encode())

"""What happens with every request, before and after its page: who asks, and what browsers may do with the answer."""

from http import HTTPStatus
from typing import Final

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from xray_batch.logs import get_logger
from xray_batch.web.access import AccessControl, is_from_here, is_loaded_by_others

#: Everything comes from here: no script, style, font or picture of anybody else, nothing written into a page, and no
#: page of others around ours.
CONTENT_SECURITY_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)

_HEADERS: Final = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",  # an address of ours may hold a patient's identifier
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}

#: The most that a form of ours may come to.
_BODY_BYTES: Final = 1 << 16


def restrain(headers: MutableHeaders) -> None:
    """Add to an answer what browsers must not do with it; what is about patients is kept by nobody."""
    headers.update(_HEADERS)
    headers.setdefault("Cache-Control", "no-store")


class SecurityHeaders:
    """Restrains every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                restrain(MutableHeaders(scope=message))
            await send(message)

        await self._app(scope, receive, send_with_headers)


class Admission:
    """Lets in whom :class:`AccessControl` knows; the others get 401 and nothing else.

    The user is `scope["state"]["user"]`, `request.state.user` to a page.
    """

    def __init__(self, app: ASGIApp, access: AccessControl) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        user = self._access.identify(scope)
        if user is None:
            get_logger().warning("a request without a valid token was refused")
            challenge = {"WWW-Authenticate": 'Basic realm="xray-batch", charset="UTF-8"'}
            refusal = Response(
                status_code=HTTPStatus.UNAUTHORIZED, headers=challenge if self._access.asks_for_token else None
            )
            await refusal(scope, receive, send)
            return
        scope.setdefault("state", {})["user"] = user
        request = Request(scope)
        if is_loaded_by_others(request.headers):
            await Response(status_code=HTTPStatus.FORBIDDEN)(scope, receive, send)
            return
        if scope["method"] == "POST":
            if not is_from_here(request):
                await Response(status_code=HTTPStatus.FORBIDDEN)(scope, receive, send)
                return
            # Of a body in chunks nobody knows the length beforehand, whatever is said beside it (RFC 9112, 6.1).
            has_length = "transfer-encoding" not in request.headers
            if not has_length or not 0 <= int(request.headers.get("content-length", "-1")) <= _BODY_BYTES:
                await Response(status_code=HTTPStatus.REQUEST_ENTITY_TOO_LARGE)(scope, receive, send)
                return
        await self._app(scope, receive, send)

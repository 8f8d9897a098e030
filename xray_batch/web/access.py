"""Who asks, and what they may see and do.

There are no accounts here.  A user is whom a line of the token file names, or whom a trusted reverse proxy names in a
header.  Where neither is configured the page is for this machine alone, and its user is `local`.
"""

import base64
import binascii
import hmac
import ipaddress
import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import Scope

from xray_batch.errors import ConfigurationError
from xray_batch.settings import Settings, host_of

#: Of whoever asks where nobody needs to say who he is.
LOCAL_USER: Final = "local"

#: In a list of users: all of them.
EVERYBODY: Final = "*"

#: A token is no password that a person thinks of: as long as `openssl rand -hex 16` makes it, or longer.
LEAST_TOKEN: Final = 32

#: What proxies add to requests that they pass on.
_PROXY_HEADERS: Final = ("forwarded", "x-forwarded-for", "x-real-ip", "via")

#: No file of tokens is larger; a file that is none is not read into memory.
_TOKEN_FILE_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """Whoever asks."""

    name: str  #: goes to the audit trail; at most 64 characters
    may_requeue: bool
    sees_identifiers: bool  #: False: never, whatever the page is asked for


class AccessControl:
    """Tells who asks, by the settings.

    Raises
    ------
    ConfigurationError
        If the token file cannot be read, is for everybody to read, or holds a line that is not NAME:TOKEN; or if
        whoever can reach this machine would be let in, or nobody.
    """

    def __init__(self, settings: Settings) -> None:
        _refuse_an_open_page(settings)
        self._tokens = {} if settings.web_token_file is None else read_tokens(settings.web_token_file)
        self._header = settings.web_user_header
        self._proxies = frozenset(map(ipaddress.ip_address, settings.web_proxies))
        self._requeue_users = frozenset(settings.web_requeue_users)
        self._deidentified_users = frozenset(settings.web_deidentified_users)
        self._is_open = settings.web_token_file is None and settings.web_user_header is None
        self._has_socket = settings.web_address == "unix"

    @property
    def asks_for_token(self) -> bool:
        """Whether a browser should ask its user for name and token."""
        return bool(self._tokens)

    def identify(self, scope: Scope) -> User | None:
        """Return who asks; None for whoever may not."""
        headers = Headers(scope=scope)
        name = self._by_token(headers) or self._by_proxy(headers, scope) or self._as_local(headers)
        if name is None:
            return None
        return User(
            name=name,
            may_requeue=_is_listed(name, self._requeue_users),
            sees_identifiers=not _is_listed(name, self._deidentified_users),
        )

    def _by_token(self, headers: Headers) -> str | None:
        """Look at `Authorization`: `Bearer TOKEN`, or `Basic` with name and token (RFC 7617), as browsers send it."""
        scheme, _, credentials = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return self._owner(credentials.strip(), None)
        if scheme.lower() != "basic":
            return None
        try:
            name, _, token = base64.b64decode(credentials, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return None
        return self._owner(token, name)

    def _owner(self, token: str, name: str | None) -> str | None:
        """Return whose token it is, after as long for a wrong one as for a right one."""
        found = None
        for owner, secret in self._tokens.items():
            if hmac.compare_digest(secret.encode(), token.encode()) and name in (None, owner):
                found = owner
        return found

    def _by_proxy(self, headers: Headers, scope: Scope) -> str | None:
        if self._header is None or not self._is_trusted(scope):
            return None
        names = headers.getlist(self._header)
        # Twice: the proxy has added its own to one that the browser sent, and nobody can say which is which.
        return _clean_name(names[0]) if len(names) == 1 else None

    def _is_trusted(self, scope: Scope) -> bool:
        """Whether the other end of the connection may name users."""
        if self._has_socket:
            return True  # its mode says who can connect
        client = scope.get("client")
        if client is None:
            return False
        address = ipaddress.ip_address(client[0])
        mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
        return (mapped or address) in self._proxies

    def _as_local(self, headers: Headers) -> str | None:
        if not self._is_open:
            return None
        # A proxy lets in people of other machines, and nobody has told it to say whom.
        is_passed_on = any(name in headers for name in _PROXY_HEADERS)
        return LOCAL_USER if _names_this_machine(headers.get("host", "")) and not is_passed_on else None


def _names_this_machine(host: str) -> bool:
    """Tell whether a `Host` header is one that a request to this machine itself can have.

    Any other name is a trick of some web page, to reach us from the browser of somebody here (DNS rebinding).
    """
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _refuse_an_open_page(settings: Settings) -> None:
    """Let nobody who can reach this machine read about patients; and serve no page that nobody can see."""
    host = host_of(settings.web_address)
    is_local = host is None or host.is_loopback
    has_proxy = settings.web_user_header is not None and bool(host is None or settings.web_proxies)
    if settings.web_user_header is not None and not has_proxy:
        message = (
            "`web_user_header` is believed over `web.sock` or from `web_proxies`: set `web_address = 'unix'`, or them"
        )
        raise ConfigurationError(message)
    if not is_local and settings.web_token_file is None and not has_proxy:
        message = (
            f"`web_address` {settings.web_address} is reached from other machines: set `web_token_file`, or both "
            "`web_user_header` and `web_proxies`"
        )
        raise ConfigurationError(message)


def read_tokens(path: Path) -> Mapping[str, str]:
    """Return the tokens by their owners' names; what the file holds is in no message.

    Raises
    ------
    ConfigurationError
        See :class:`AccessControl`.
    """
    try:
        with path.open("rb") as file:
            if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & stat.S_IROTH:
                message = f"the token file {path} can be read by everybody: chmod o-r"
                raise ConfigurationError(message)
            lines = file.read(_TOKEN_FILE_BYTES).decode().splitlines()
    except OSError as error:
        message = f"the token file {path} cannot be read: {error.strerror}"
        raise ConfigurationError(message) from error
    except UnicodeDecodeError:
        message = f"the token file {path} is not UTF-8 text"
        raise ConfigurationError(message) from None
    return _parse_tokens(lines, path)


def _parse_tokens(lines: Sequence[str], path: Path) -> Mapping[str, str]:
    tokens: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, _, token = line.strip().partition(":")
        if _clean_name(name) is None or name in tokens or len(token) < LEAST_TOKEN or token in tokens.values():
            message = (
                f"line {number} of the token file {path} is not NAME:TOKEN with a name and a token of its own, the "
                f"name of 1 to 64 letters, digits and .@_-, the token of {LEAST_TOKEN} characters or more"
            )
            raise ConfigurationError(message)
        tokens[name] = token
    if not tokens:
        message = f"the token file {path} has no line NAME:TOKEN"
        raise ConfigurationError(message)
    return tokens


def _clean_name(name: str) -> str | None:
    """Return a name that may stand in the audit trail; None for what is none."""
    name = name.strip()
    is_plain = all(letter.isalnum() or letter in ".@_-" for letter in name)
    return name if 0 < len(name) <= 64 and is_plain else None


def _is_listed(name: str, users: frozenset[str]) -> bool:
    return name in users or EVERYBODY in users


def is_loaded_by_others(headers: Headers) -> bool:
    """Tell whether another web page in the user's browser loads this by itself, and nobody has followed a link."""
    is_foreign = headers.get("sec-fetch-site") in ("cross-site", "same-site")
    return is_foreign and headers.get("sec-fetch-mode") != "navigate"


def is_from_here(request: Request) -> bool:
    """Tell whether a page of ours sent a form, and no other web page that the user's browser is shown.

    Browsers say so themselves (Fetch Metadata); older ones name the origin.
    """
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        return site in ("same-origin", "none")
    origin = request.headers.get("origin")
    return origin is None or origin.partition("://")[2] == request.headers.get("host")

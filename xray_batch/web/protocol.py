"""How a connection to the page is held open: as long as it asks, and no longer."""

import asyncio
from typing import Final

from uvicorn.protocols.http.h11_impl import H11Protocol

#: From the start of a connection, or the end of an answer, to the end of the next request's head.
HEAD_SECONDS: Final = 10.0


class ImpatientProtocol(H11Protocol):
    """HTTP/1.1 for those who ask; uvicorn waits for ever for a first request, and for the rest of any.

    Browsers connect ahead and then go to sleep, and whoever reaches the port could hold it without a token: each
    connection takes a descriptor, and without a free one nobody gets a page.
    """

    _end: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as in uvicorn
        """Wait for the first request."""
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        """Take a part of a request."""
        super().data_received(data)
        self._wait()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        super().on_response_complete()
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing more."""
        super().connection_lost(exc)
        if self._end is not None:
            self._end.cancel()

    def _wait(self) -> None:
        """Let the time run while no request is being answered."""
        is_answering = self.cycle is not None and not self.cycle.response_complete
        if self._end is None and not is_answering:
            self._end = self.loop.call_later(HEAD_SECONDS, self.transport.close)
        elif self._end is not None and is_answering:
            self._end.cancel()
            self._end = None

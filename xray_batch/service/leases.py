"""The contents in hand: leased to be answered, kept while that lasts, tried again or given back."""

import time
from collections.abc import Callable
from typing import Final

from xray_batch.records import Lease
from xray_batch.service.metrics import Metrics
from xray_batch.store import RETRY_SECONDS_AT_MOST, Store

#: Before a content is tried again; doubled with each attempt, up to `RETRY_SECONDS_AT_MOST`.
_RETRY_SECONDS: Final = 5.0


class Leases:
    """What this service holds; nobody else takes it up before its time is over.

    Parameters
    ----------
    lease_seconds
        How long a lease lasts; :meth:`keep` makes it last longer from a third of it on.
    clock
        Monotonic seconds.
    """

    def __init__(
        self, store: Store, metrics: Metrics, *, lease_seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._store = store
        self._metrics = metrics
        self._lease_seconds = lease_seconds
        self._clock = clock
        self._held: dict[str, Lease] = {}  #: by the hash of the content
        self._keep_at = float("inf")
        self._has_taken = False

    def take(self, limit: int, attempts: range, *, urgent: bool | None = None) -> list[Lease]:
        """Lease contents that had so many attempts before, the urgent ones or the others; None for both."""
        self.keep()  # after a wait for the folders our own may have ended, and are not to be taken anew
        taken = self._store.lease(limit=limit, lease_seconds=self._lease_seconds, attempts=attempts, urgent=urgent)
        if taken and not self._held:
            self._keep_at = self._next_keeping()
        self._metrics.expired.inc(sum(lease.expired for lease in taken))
        self._held |= {lease.content_sha256: lease for lease in taken}
        self._has_taken |= bool(taken)
        return taken

    def has_taken(self) -> bool:
        """Tell whether anything was leased since the last call."""
        has_taken, self._has_taken = self._has_taken, False
        return has_taken

    def keep(self) -> None:
        """Make leases last longer, if it is time; those that others hold by now are no longer ours."""
        if self._held and self._clock() > self._keep_at:
            kept = self._store.extend(list(self._held.values()), self._lease_seconds)
            self._held = {lease.content_sha256: lease for lease in kept}
            self._keep_at = self._next_keeping()

    def retry(self, lease: Lease, *, counted: bool) -> None:
        """Queue a content again, not before a delay that grows with its attempts; `counted`: this one was its fault."""
        delay = min(_RETRY_SECONDS * 2 ** min(lease.attempts - 1, 10), RETRY_SECONDS_AT_MOST)
        self._store.retry_later(lease, delay, counted=counted)
        self._metrics.retries.labels("counted" if counted else "transient").inc()
        self.ended(lease)

    def ended(self, lease: Lease) -> None:
        """Take note that a content is answered, or no longer to be; a newer lease of it is still held."""
        if self._held.get(lease.content_sha256) == lease:
            del self._held[lease.content_sha256]

    def give_back(self) -> None:
        """Queue again what is held and will not be answered, as if it had not been taken."""
        if self._held:
            self._store.release(list(self._held.values()))
            self._held.clear()

    def abandon(self) -> None:
        """Hold nothing any more, and give nothing back: the leases end by themselves, and their attempts count."""
        self._held.clear()

    def _next_keeping(self) -> float:
        return self._clock() + self._lease_seconds / 3

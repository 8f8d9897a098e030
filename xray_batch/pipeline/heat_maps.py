"""Heat maps of stored results, made when somebody asks: one at a time, and kept for a while.

torch and the networks are loaded for the first.
"""

import datetime as dt
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from xray_batch.errors import ConfigurationError, DecoderDiedError, DeviceMemoryError
from xray_batch.records import Outcome, Rejection, StoredResult
from xray_batch.settings import Settings

if TYPE_CHECKING:
    from xray_batch.bundle import Bundle
    from xray_batch.pipeline.explain import Explainer
    from xray_batch.records import ModelInput

#: Maps that are kept, of some 50 kB each.
KEPT: Final = 64

#: So many requests may wait for a map; the page has threads for other things, too.
WAITERS: Final = 4

#: So long does somebody wait while other maps are made.
PATIENCE_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Heat:
    """The heat map of one result, see :class:`xray_batch.records.HeatMap`, on the model input."""

    rows: int
    columns: int
    levels: bytes  #: `rows` times `columns`, row by row; 0: no heat, 255: the hottest point
    thorax_share: float | None
    is_trimmed: bool  #: whether the model input is the film without its one-gray borders


@dataclass(frozen=True, slots=True, kw_only=True)
class NoHeat:
    """Why there is no heat map: one sentence for people; with a `reason` that may quote the file."""

    text: str
    reason: str | None = None
    is_passing: bool = False  #: whether to ask again may help


_OTHERS_FIRST: Final = NoHeat(text="Other heat maps are being made. Try again in a moment.", is_passing=True)


class HeatMaps:
    """Explains stored results by the bundles that gave them, for all threads of a process."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._kept: dict[tuple[int, dt.datetime], Heat] = {}
        self._lock = threading.Lock()
        self._waiting = threading.BoundedSemaphore(WAITERS)
        self._last: tuple[Bundle, Explainer] | None = None

    def explain(self, stored: StoredResult, places: Iterable[Path]) -> Heat | NoHeat:
        """Return the heat map of a result, whose original is in one of `places`."""
        record = stored.record
        if record.outcome is Outcome.NOT_ANALYSED:
            return NoHeat(text="No network saw the film: it was not analysed.")
        key = (record.result_id, record.classified_at)  # an answer that was given again has another time
        heat = self._kept.get(key)
        if heat is not None:
            return heat
        if not self._waiting.acquire(blocking=False):
            return _OTHERS_FIRST
        try:
            if not self._lock.acquire(timeout=PATIENCE_SECONDS):
                return _OTHERS_FIRST
            try:
                return self._kept.get(key) or self._explain(stored, places, key)
            finally:
                self._lock.release()
        finally:
            self._waiting.release()

    def _explain(self, stored: StoredResult, places: Iterable[Path], key: tuple[int, dt.datetime]) -> Heat | NoHeat:
        try:
            made = self._make(stored, places)
        except ConfigurationError as error:
            return NoHeat(text=f"The heat map cannot be made: {error}.")
        except (DecoderDiedError, DeviceMemoryError) as error:
            return NoHeat(text=f"The heat map could not be made: {error}.", is_passing=True)
        except OSError as error:  # no process can be started
            return NoHeat(text=f"The heat map could not be made: {error.strerror}.", is_passing=True)
        if isinstance(made, Heat):
            self._keep(key, made)
        return made

    def _keep(self, key: tuple[int, dt.datetime], heat: Heat) -> None:
        self._kept[key] = heat
        while len(self._kept) > KEPT:
            del self._kept[next(iter(self._kept))]

    def _make(self, stored: StoredResult, places: Iterable[Path]) -> Heat | NoHeat:
        import numpy as np

        bundle, explainer = self._maker(stored)
        model_input = self._prepare(stored, bundle, places)
        if isinstance(model_input, NoHeat):
            return model_input
        explained = explainer.explain(model_input)
        if isinstance(explained, Rejection):
            text = f"The film is refused now: {explained.reason_code.replace('_', ' ')}."
            return NoHeat(text=text, reason=explained.reason)
        heat_map = explained.explanation.heat_map
        rows, columns = heat_map.average.shape
        return Heat(
            rows=rows,
            columns=columns,
            levels=np.rint(255 * heat_map.average).astype(np.uint8).tobytes(),
            thorax_share=heat_map.thorax_share,
            is_trimmed=bundle.manifest.input_spec.trim_borders,
        )

    def _maker(self, stored: StoredResult) -> "tuple[Bundle, Explainer]":
        """Return the bundle that gave the answer; the last one is kept in memory."""
        from xray_batch.pipeline.explain import Explainer
        from xray_batch.pipeline.replay import find_maker

        if self._last is None or self._last[0].sha256 != stored.record.model_sha256:
            bundle = find_maker(stored.record, self._settings)
            self._last = (bundle, Explainer(bundle, self._settings))
        return self._last

    def _prepare(self, stored: StoredResult, bundle: "Bundle", places: Iterable[Path]) -> "ModelInput | NoHeat":
        """Have a decode worker prepare the original as it was prepared for the answer."""
        from xray_batch.pipeline.engine import as_model_input, choose_least_side
        from xray_batch.pipeline.pool import Decoded, DecodeWorker
        from xray_batch.pipeline.replay import find_decode
        from xray_batch.pipeline.worker_process import WorkerLimits

        settings = self._settings.model_copy(update={"decode": find_decode(stored.record, bundle)})
        spec = bundle.manifest.input_spec
        limits = WorkerLimits.from_settings(settings)
        worker = DecodeWorker(spec, limits, least_side=choose_least_side(spec, settings))
        try:
            for place in places:
                reply, pixels = worker.decode(place)
                if reply.content_sha256 != stored.record.content_sha256:
                    continue
                model_input = as_model_input(Decoded(job=None, reply=reply, pixels=pixels))
                if model_input is not None:
                    return model_input
                return NoHeat(
                    text="The film cannot be prepared for the networks now.",
                    reason=reply.rejection.reason if reply.rejection else None,
                )
        except DecoderDiedError:
            worker.kill()
            raise
        finally:
            worker.close()
        return NoHeat(text="The original is not here.")

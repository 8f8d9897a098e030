"""Decode every golden file as the service does, and compare the pixels with the film."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

import numpy as np
import numpy.typing as npt

from xray_batch.decode import RENDERING_VERSION, transfer_syntaxes
from xray_batch.golden.kit import GoldenFile, Kit, Verdict, check_unchanged
from xray_batch.libraries import versions
from xray_batch.pipeline.pool import Decoded, DecodePool
from xray_batch.pipeline.worker import Reply
from xray_batch.pipeline.worker_process import WorkerLimits
from xray_batch.records import InputSpec
from xray_batch.settings import Settings
from xray_batch.standardize import SQUASH_BILINEAR_ANTIALIAS

#: One step of float32 at 1: two right ways of calculating may differ so much.
_ROUNDING: Final = 2.0**-23

_RASTER_SUFFIXES: Final = (".png", ".jpeg")


def check_renderings(kit: Kit, settings: Settings) -> list[Verdict]:
    """Decode every golden file in decode workers with the service's limits; verdicts are in the kit's order.

    Raises
    ------
    DecoderDiedError
        If workers cannot even be started.
    """
    verdicts: dict[GoldenFile, Verdict] = {}
    todo = []
    for golden in kit.files:
        verdicts[golden] = Verdict(golden=golden, decoder=_decoder(golden))
        changed = check_unchanged(kit.path(golden), golden.sha256)
        if changed is None:
            todo.append(golden)
        else:
            verdicts[golden] = verdicts[golden].fail(changed)
    for decoded in _decode(kit, todo, settings):
        verdicts[decoded.job] = _judge(verdicts[decoded.job], decoded.reply, decoded.pixels, kit.film)
    return list(verdicts.values())


def _decoder(golden: GoldenFile) -> str:
    """Name what reads a golden file here."""
    if golden.file.endswith(_RASTER_SUFFIXES):
        return f"Pillow {versions('pillow')['pillow']}"
    decoders = (syntax.decoder for syntax in transfer_syntaxes() if syntax.uid == golden.transfer_syntax_uid)
    return next(decoders, "none")


def _decode(kit: Kit, todo: list[GoldenFile], settings: Settings) -> Iterator[Decoded[GoldenFile]]:
    """Decode files; the pixels that come back are in [0, 1], and neither resized nor standardized."""
    rows, columns = kit.film.shape
    spec = InputSpec(
        rows=rows,
        columns=columns,
        mean=0.0,
        std=1.0,
        resize=SQUASH_BILINEAR_ANTIALIAS,
        trim_borders=False,
        stretch=None,
        smooth=False,
        rendering_version=RENDERING_VERSION,
    )
    limits = WorkerLimits.from_settings(settings)
    with DecodePool[GoldenFile](settings.decode_workers, spec, limits) as pool:
        for golden in todo:
            pool.submit(golden, kit.path(golden))
        yield from pool.drain()


def _judge(
    verdict: Verdict, reply: Reply, pixels: npt.NDArray[np.float32] | None, film: npt.NDArray[np.float32]
) -> Verdict:
    """Compare what a worker said about one file with what it must."""
    golden = verdict.golden
    if pixels is None and reply.rejection is None:
        return verdict.fail(f"decoding ended with {reply.failure}")
    if golden.reason_code is not None:
        return _judge_refusal(verdict, reply, golden.reason_code)
    if reply.rejection is not None:
        return verdict.fail(f"refused as {reply.rejection.reason_code}: {reply.rejection.reason}")
    return _judge_pixels(verdict, reply, pixels, film)


def _judge_refusal(verdict: Verdict, reply: Reply, expected: str) -> Verdict:
    if reply.rejection is None:
        return verdict.fail(f"accepted; it must be refused as {expected}")
    if reply.rejection.reason_code != expected:
        return verdict.fail(f"refused as {reply.rejection.reason_code}; it must be refused as {expected}")
    return verdict


def _judge_pixels(
    verdict: Verdict, reply: Reply, pixels: npt.NDArray[np.float32] | None, film: npt.NDArray[np.float32]
) -> Verdict:
    golden = verdict.golden
    if pixels is None or golden.tolerance is None:
        return verdict.fail("nothing was rendered")
    difference = float(np.abs(pixels - film).max())
    verdict = replace(verdict, difference=difference)
    found = reply.header.transfer_syntax_uid if reply.header else None
    if found != golden.transfer_syntax_uid:
        return verdict.fail(f"read as transfer syntax {found}; it has {golden.transfer_syntax_uid}")
    if not difference <= golden.tolerance + _ROUNDING:  # so that a pixel that is no number fails, too
        return verdict.fail(f"a pixel differs by {difference:.6f}; at most {golden.tolerance:.6f} is right")
    return verdict

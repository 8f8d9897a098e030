"""The golden kit through the real decode workers and decoders of this installation."""

import shutil
from pathlib import Path

import pytest

from xray_batch.golden.kit import PACKAGED_KIT, read_kit
from xray_batch.golden.rendering import check_renderings
from xray_batch.settings import Settings

SETTINGS = Settings(decode_workers=2)


def test_all_golden_files_pass():
    """On a healthy installation every golden file passes, in the order of the kit, twice to the last bit alike."""
    kit = read_kit()
    verdicts = check_renderings(kit, SETTINGS)
    assert [verdict.problem for verdict in verdicts] == [None] * len(kit.files)
    assert [verdict.golden for verdict in verdicts] == list(kit.files)
    assert check_renderings(kit, SETTINGS) == verdicts


def test_a_changed_golden_file_fails_alone(tmp_path: Path):
    """One changed byte in one golden file fails that file and no other."""
    shutil.copytree(PACKAGED_KIT, tmp_path / "kit")
    kit = read_kit(tmp_path / "kit")
    golden = next(golden for golden in kit.files if golden.file == "syntax-rle.dcm")
    content = bytearray(kit.path(golden).read_bytes())
    content[-100] ^= 1
    kit.path(golden).write_bytes(content)
    failed = [verdict for verdict in check_renderings(kit, SETTINGS) if not verdict.passed]
    assert [verdict.golden.file for verdict in failed] == ["syntax-rle.dcm"]


@pytest.mark.parametrize("change", ["one step of 12 bits", "mirrored"])
def test_another_film_fails_every_film_and_no_refusal(change):
    """Compared with a film that differs in one step, or is mirrored, every lossless film fails."""
    from dataclasses import replace

    kit = read_kit()
    other = kit.film[:, ::-1].copy() if change == "mirrored" else kit.film.copy()
    if change != "mirrored":
        other[50, 60] += 1 / 4095
    for verdict in check_renderings(replace(kit, film=other), SETTINGS):
        if verdict.golden.reason_code is not None:
            assert verdict.passed
        elif verdict.golden.tolerance == 0 or change == "mirrored":
            assert not verdict.passed, verdict.golden.file

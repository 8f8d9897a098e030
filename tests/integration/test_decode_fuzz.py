"""Real files of every encoding, damaged at random, through a real decode worker.

`XRAY_BATCH_FUZZ_FILES` asks for more files than a normal run has, `XRAY_BATCH_FUZZ_SEED` for others.
"""

import os
import random
import struct
from pathlib import Path

import numpy as np
import pytest
from input_specs import make_spec

from xray_batch.errors import DecoderDiedError, ReasonCode
from xray_batch.golden.kit import PACKAGED_KIT
from xray_batch.pipeline.pool import DecodeWorker
from xray_batch.pipeline.worker_process import WorkerLimits

REPOSITORY = Path(__file__).resolve().parent.parent.parent

FILES = int(os.environ.get("XRAY_BATCH_FUZZ_FILES", "2000"))
SEED = int(os.environ.get("XRAY_BATCH_FUZZ_SEED", "20261127"))

LIMITS = WorkerLimits(seconds=60.0, address_space=2048 << 20)


def flip_bits(content: bytearray, chance: random.Random) -> None:
    """Turn some bits over, most often near the beginning, where headers are."""
    end = chance.choice([512, 2048, len(content)])
    for _ in range(chance.randint(1, 16)):
        content[chance.randrange(min(end, len(content)))] ^= 1 << chance.randrange(8)


def truncate(content: bytearray, chance: random.Random) -> None:
    """Cut the end off."""
    del content[chance.randrange(len(content)) :]


def swap_chunks(content: bytearray, chance: random.Random) -> None:
    """Exchange two pieces of the same length."""
    length = chance.randint(1, min(256, len(content) // 3))
    one, other = sorted(chance.sample(range(len(content) - length), 2))
    content[one : one + length], content[other : other + length] = (
        content[other : other + length],
        content[one : one + length],
    )


def change_length(content: bytearray, chance: random.Random) -> None:
    """Write an extreme number where a length, or anything else of four bytes, stands."""
    number = chance.choice([0, 1, 0xFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFE, 0xFFFFFFFF, len(content), len(content) + 1])
    at = chance.randrange(min(chance.choice([1024, len(content)]), len(content) - 4))
    struct.pack_into(chance.choice(["<I", ">I"]), content, at, number)


def repeat_chunk(content: bytearray, chance: random.Random) -> None:
    """Insert a piece of the file once more."""
    length = chance.randint(1, 512)
    at = chance.randrange(len(content))
    content[at:at] = content[at : at + length] * chance.choice([1, 2, 50])


MUTATIONS = (flip_bits, truncate, swap_chunks, change_length, repeat_chunk)


@pytest.fixture
def worker(monkeypatch):
    """Start one worker, which must outlive every file."""
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    worker = DecodeWorker(make_spec(), LIMITS)
    yield worker
    worker.close()


def test_every_damaged_file_is_an_image_or_a_coded_rejection(worker, tmp_path):
    """No mutation ends the worker, takes it too long, or comes to an error that is no reason code."""
    samples = sorted(
        path for path in PACKAGED_KIT.rglob("*") if path.suffix in {".dcm", ".png", ".jpg", ".jpeg", ".gz"}
    )
    assert len(samples) > 40
    wrong, images, reasons = [], 0, set()
    path = tmp_path / "damaged"
    for number in range(FILES):
        chance = random.Random(SEED + number)
        sample, mutations = samples[number % len(samples)], chance.sample(MUTATIONS, chance.choice([1, 1, 2]))
        content = bytearray(sample.read_bytes())
        for mutate in mutations:
            if len(content) > 8:
                mutate(content, chance)
        path.write_bytes(content)
        told = f"seed {SEED + number}, {sample.name}, {[mutate.__name__ for mutate in mutations]}"
        try:
            reply, pixels = worker.decode(path)
        except DecoderDiedError as error:
            pytest.fail(f"{told}: {error}")
        if reply.failure is not None:
            wrong.append(f"{told}: {reply.failure}")
        elif reply.rejection is not None:
            reasons.add(ReasonCode(reply.rejection.reason_code))
        else:
            images += 1
            assert np.isfinite(pixels).all(), told
    assert not wrong, "\n".join(wrong)
    assert images > FILES // 20
    assert len(reasons) > 3

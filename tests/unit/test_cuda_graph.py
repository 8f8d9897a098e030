"""A pass that is recorded on a GPU and replayed."""

import pytest
import torch

from xray_batch.cuda_graph import RecordedPass

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU can be used here")

MEBIBYTE = 2**20


def record(forward, images=4, dtype=torch.float32):
    """Record a pass over images of 8 x 9 pixels."""
    return RecordedPass(forward, images=images, rows=8, columns=9, device=torch.device("cuda"), dtype=dtype)


def test_gives_what_was_recorded():
    """Full and smaller batches get the answers of the function itself, one row for each image."""
    recorded = record(lambda images: (images * 2, images.mean((1, 2, 3))))
    for count in (4, 1, 3):
        batch = torch.randn(count, 1, 8, 9)
        doubled, means = (output.cpu() for output in recorded(batch))
        assert torch.equal(doubled, batch * 2)
        assert torch.allclose(means, batch.mean((1, 2, 3)))
        assert means.shape == (count,)


def test_gives_the_precision_asked_for():
    """Images reach the recorded function in the precision that was asked for."""
    (output,) = record(lambda images: (images + 1,), dtype=torch.bfloat16)(torch.zeros(2, 1, 8, 9))
    assert output.dtype == torch.bfloat16
    assert (output == 1).all()


@pytest.fixture
def small_gpu():
    """Leave 400 MiB of the GPU's memory to this process."""
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 400 * MEBIBYTE) / total)
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)
    torch.cuda.empty_cache()


def hungry(images):
    """Take 100 MiB for each image on the way."""
    room = torch.zeros(len(images), 100 * MEBIBYTE, dtype=torch.uint8, device=images.device)
    return (images.sum((1, 2, 3)) + room[:, 0],)


def test_a_batch_too_large_is_halved(small_gpu):
    """A GPU without the memory for the batch asked for gets the largest half, quarter, ... that fits."""
    recorded = record(hungry, images=16)
    assert recorded.images == 2
    batch = torch.ones(2, 1, 8, 9)
    assert recorded(batch)[0].tolist() == [72.0, 72.0]


def test_no_room_for_one_image(small_gpu):
    """Where not even one image fits, the GPU's own error says so."""
    with pytest.raises(torch.OutOfMemoryError):
        record(lambda images: (images + torch.zeros(500 * MEBIBYTE, dtype=torch.uint8, device="cuda").sum(),))

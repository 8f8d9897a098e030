"""Random changes: what they keep, what they change, and that they can be repeated."""

import pytest
import torch

from xray_batch.training import augment as module
from xray_batch.training.augment import (
    add_noise,
    augment,
    blur,
    change_exposure,
    change_pose,
    change_sharpness,
    erase_rectangle,
    mask_border,
    mix,
)


def augment_fully(images, random):
    """Apply every change."""
    return augment(images, random, "full")


CHANGES = [augment_fully, change_pose, change_exposure, change_sharpness, add_noise, mask_border, erase_rectangle]

#: Of the changes that put a gray of their own over parts of some images.
COVERS = {mask_border: 0.5, erase_rectangle: 0.2}

each_change = pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)


def seeded(seed=0):
    """Return a generator that always draws the same."""
    return torch.Generator().manual_seed(seed)


def images_of_noise(count=16, rows=32, columns=32):
    """Return images without any constant region."""
    return torch.rand(count, 1, rows, columns, generator=seeded(7))


@pytest.fixture
def neutral(monkeypatch):
    """Have every amount drawn as the one that changes nothing, and no chance come true."""
    monkeypatch.setattr(module, "_uniform", lambda count, low, high, random: torch.full((count,), float(low > 0)))
    monkeypatch.setattr(module, "_chance", lambda count, probability, random: torch.zeros(count, dtype=torch.bool))


@each_change
@pytest.mark.parametrize("count", [1, 2, 3, 5, 16])
def test_shape_and_range(change, count):
    """Shape and type are kept, and values stay in [0, 1], whatever the size of the batch."""
    images = images_of_noise(count, 24, 40)
    changed = change(images, seeded())
    assert changed.shape == images.shape
    assert changed.dtype == torch.float32
    assert changed.min() >= 0.0
    assert changed.max() <= 1.0 + 1e-6


@each_change
@pytest.mark.parametrize("gray", [0.0, 0.5, 1.0])
def test_constant_images_stay_in_range(change, gray):
    """Black, gray and white regions stay in range: no change leaves [0, 1] or makes NaN."""
    changed = change(torch.full((16, 1, 32, 32), gray), seeded())
    assert changed.isfinite().all()
    assert changed.min() >= 0.0
    assert changed.max() <= 1.0 + 1e-6


@each_change
def test_repeatable(change):
    """The same seed gives the same images bit for bit, another seed gives others; the input is not changed."""
    images = images_of_noise()
    before = images.clone()
    first, again, other = (change(images, seeded(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first, images)
    assert torch.equal(images, before)


@each_change
def test_each_image_on_its_own(change):
    """Equal images of one batch come out in different ways."""
    images = images_of_noise(1).expand(16, -1, -1, -1)
    changed = change(images, seeded())
    assert len({image.numpy().tobytes() for image in changed}) > 2


@pytest.mark.parametrize(
    "change",
    [change_pose, change_exposure, add_noise, mask_border, erase_rectangle],
    ids=lambda change: change.__name__,
)
def test_identity(change, neutral):
    """With neutral amounts a change leaves the images as they are."""
    images = images_of_noise().clamp(0.01, 0.99)
    assert torch.allclose(change(images, seeded()), images, atol=1e-5)


def test_mirror(neutral, monkeypatch):
    """The pose's mirror turns left and right, and nothing else."""
    monkeypatch.setattr(module, "_chance", lambda count, probability, random: torch.ones(count, dtype=torch.bool))
    images = images_of_noise()
    assert torch.allclose(change_pose(images, seeded()), images.flip(-1), atol=1e-5)


def test_pose_keeps_the_middle():
    """However posed, the middle of a uniform image stays, and what comes in from outside is black."""
    changed = change_pose(torch.full((64, 1, 64, 64), 0.5), seeded())
    assert torch.allclose(changed[:, :, 20:44, 20:44], torch.tensor(0.5), atol=1e-5)
    assert changed.min() == 0.0


def test_exposure_keeps_the_order_of_grays():
    """A brighter pixel does not become darker than a darker one."""
    ramp = torch.linspace(0, 1, 64).expand(64, 1, 8, 64)
    assert (change_exposure(ramp, seeded()).diff(dim=-1) >= 0).all()


def test_sharpness_keeps_uniform_images():
    """Blurring or shrinking an image of one gray gives the same image."""
    images = torch.full((16, 1, 32, 32), 0.625)
    assert torch.allclose(change_sharpness(images, seeded()), images, atol=1e-6)


def test_sharpness_is_lost():
    """No image comes out with more contrast between neighbours than it had."""
    images = images_of_noise()
    before, after = (x.diff(dim=-1).abs().mean(dim=(1, 2, 3)) for x in (images, change_sharpness(images, seeded())))
    assert (after <= before + 1e-6).all()


def test_blur():
    """A blurred point is a Gaussian of the standard deviation asked for, with the same sum."""
    point = torch.zeros(1, 1, 41, 41)
    point[0, 0, 20, 20] = 1.0
    blurred = blur(point, 2.0)[0, 0]
    positions = torch.arange(41.0) - 20
    assert float(blurred.sum()) == pytest.approx(1.0, abs=1e-5)
    assert float((blurred.sum(dim=0) * positions**2).sum()) == pytest.approx(4.0, rel=0.05)
    assert torch.allclose(blurred, blurred.T)


def test_blur_of_nothing():
    """A standard deviation of next to nothing leaves the images as they are."""
    images = images_of_noise()
    assert blur(images, 0.05) is images


def test_blur_keeps_the_edge():
    """Edges are repeated outwards: a white image does not get a dark frame."""
    assert torch.allclose(blur(torch.ones(1, 1, 16, 16), 3.0), torch.tensor(1.0), atol=1e-6)


@pytest.mark.parametrize("change", COVERS, ids=lambda change: change.__name__)
def test_share_of_covered_images(change):
    """Borders cover part of 40 % of the images, rectangles of 20 %; the others are untouched."""
    images = images_of_noise(500)
    changed = change(images, seeded())
    touched = (changed != images).flatten(1).any(dim=1).float().mean()
    assert abs(float(touched) - COVERS[change]) < 0.07


@pytest.mark.parametrize("change", COVERS, ids=lambda change: change.__name__)
def test_one_gray_covers(change):
    """What covers a part of an image is one gray."""
    images = images_of_noise(100)
    changed = change(images, seeded())
    for before, after in zip(images, changed, strict=True):
        assert len(after[after != before].unique()) <= 1


def test_border_leaves_the_middle():
    """A border is at most 12 % wide: the middle of every image is untouched."""
    images = images_of_noise(200)
    inner = slice(4, 28)
    assert torch.equal(mask_border(images, seeded())[..., inner, inner], images[..., inner, inner])


def test_half_of_the_borders_are_black():
    """A collimator's border is the commonest: about half of the borders are black, the others any gray."""
    images = images_of_noise(400).clamp(0.01, 0.99)
    corners = mask_border(images, seeded())
    grays = corners[(corners != images).flatten(1).any(dim=1)].flatten(1).min(dim=1).values
    assert 0.4 < float((grays == 0).float().mean()) < 0.6


def test_rectangle_is_small():
    """An erased rectangle is at most 10 % of the area, but for the rounding to whole pixels."""
    images = images_of_noise(300, 64, 64)
    erased = (erase_rectangle(images, seeded()) != images).float().mean(dim=(1, 2, 3))
    assert 0.05 < float(erased.max()) < 0.12


def test_pose_alone():
    """An augmentation of the pose alone leaves exposure and sharpness as they are."""
    images = images_of_noise()
    assert torch.equal(augment(images, seeded(), "pose"), change_pose(images, seeded()))


def test_mix():
    """A mixed batch is the batch and its partners in the share given; every image is a partner once."""
    images = images_of_noise()
    mixed, partners, share = mix(images, seeded(), 1.0)
    assert sorted(partners.tolist()) == list(range(len(images)))
    assert 0 < share < 1
    assert torch.allclose(mixed, share * images + (1 - share) * images[partners])


def test_mix_is_a_matter_of_chance():
    """Half of the batches are mixed where that is asked for, and none where not; equal seeds mix equally."""
    images = images_of_noise(4, 8, 8)
    random = seeded()
    shares = [mix(images, random, 0.5)[2] for _ in range(200)]
    assert 70 < sum(share == 1.0 for share in shares) < 130
    unmixed, _, share = mix(images, random, 0.0)
    assert share == 1.0
    assert torch.equal(unmixed, images)
    assert mix(images, seeded(3), 0.5)[2] == mix(images, seeded(3), 0.5)[2]

"""Heat maps: equal to Grad-CAM by a backward pass, in known places, of known size and share."""

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from xray_batch.bundle import Bundle
from xray_batch.heat_map import THORAX, make_heat_map, pneumonia_heat, thorax_shares
from xray_batch.networks import forward_with_features

NORMAL = 0


def grad_cam(network, images):
    """Return Grad-CAM of the log odds of pneumonia as the paper has it: gradients by a backward pass."""
    kept = {}
    network.layer4.register_forward_hook(lambda module, inputs, output: kept.update(stage=output))
    network.requires_grad_(requires_grad=True)
    log_p = torch.log_softmax(network(images), dim=1)
    p_normal = log_p[:, NORMAL].exp()
    log_odds = torch.log((1 - p_normal) / p_normal)
    (gradient,) = torch.autograd.grad(log_odds.sum(), kept["stage"])
    weights = gradient.mean((2, 3), keepdim=True)
    return torch.relu((weights * kept["stage"]).sum(1)).detach().numpy()


@pytest.mark.parametrize("member", [0, 1], ids=["resnet34", "resnet50"])
def test_equals_grad_cam_by_autograd(member, bundle_folder):
    """The closed form is the Grad-CAM that a backward pass gives, for every picture."""
    network = Bundle(bundle_folder).load_networks()[member].double()
    images = torch.randn(5, 1, 128, 96, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        logits, _, class_maps = forward_with_features(network, images, 1)
    heat = pneumonia_heat(class_maps.double().numpy(), logits.numpy(), NORMAL)
    expected = grad_cam(network, images)
    assert expected.max() > 0
    assert np.allclose(heat, expected, rtol=1e-4, atol=1e-5 * expected.max())


def test_the_place_of_normal_does_not_matter():
    """The heat is the same in whatever order the bundle has its classes."""
    random = np.random.default_rng(1)
    class_maps, logits = random.normal(size=(3, 4, 5, 6)), random.normal(size=(3, 4))
    heat = pneumonia_heat(class_maps, logits, normal=0)
    turned = pneumonia_heat(np.roll(class_maps, 2, axis=1), np.roll(logits, 2, axis=1), normal=2)
    assert heat.max() > 0
    assert np.allclose(heat, turned)


def test_extreme_logits():
    """Logits of any size give a finite heat: that of the likeliest pneumonia minus that of normal."""
    class_maps = np.stack([np.full((1, 1), value) for value in (1.0, 5.0, 7.0, 9.0)])[None]
    heat = pneumonia_heat(class_maps, np.array([[-1e4, 0.0, 1e4, 0.0]]), NORMAL)
    assert heat == pytest.approx(np.full((1, 1, 1), 6.0))


def test_enlarged_as_torch_does():
    """A map is enlarged by linear interpolation between the centres of its parts."""
    heat = np.random.default_rng(2).random((3, 4))
    expected = interpolate(torch.tensor(heat)[None, None], (50, 70), mode="bilinear", align_corners=False)[0, 0]
    average = make_heat_map([heat], 50, 70).average
    assert average.shape == (50, 70)
    assert average.dtype == np.float32
    assert np.allclose(average, expected / expected.max(), atol=1e-6)


def test_members_have_the_same_say():
    """A member with a hundred times the heat has no more weight in the average; each map has a maximum of 1."""
    left, right = np.array([[1.0, 0.0]]), np.array([[0.0, 100.0]])
    found = make_heat_map([left, right], 10, 20)
    assert np.allclose(found.average, found.average[:, ::-1], atol=1e-6)
    assert [member.max() for member in (found.average, *found.members)] == [1.0, 1.0, 1.0]
    assert np.allclose(found.members[0], found.members[1][:, ::-1], atol=1e-6)


def test_no_heat():
    """Where nothing raises pneumonia the maps are zero and there is no share."""
    found = make_heat_map([np.zeros((3, 3)), np.zeros((3, 3))], 30, 30)
    assert found.thorax_share is None
    assert not np.any([found.average, *found.members])


def test_a_member_without_heat_is_left_out():
    """The average of a member with heat and one without is the former's."""
    heat = np.random.default_rng(3).random((3, 3))
    both, one = make_heat_map([heat, np.zeros((3, 3))], 30, 30), make_heat_map([heat], 30, 30)
    assert np.array_equal(both.average, one.average)
    assert both.thorax_share == one.thorax_share
    assert not both.members[1].any()


def test_even_heat_has_the_area_of_the_box():
    """Heat that is spread evenly has the box's share of the picture, whatever the size of the maps."""
    members = [np.ones((2, 3, 3)), np.full((2, 7, 5), 9.0)]
    assert THORAX.area == pytest.approx(0.525)
    assert thorax_shares(members, 96, 101) == pytest.approx([THORAX.area, THORAX.area])


@pytest.mark.parametrize("shape", [(3, 3), (7, 7)])
def test_share_is_that_of_the_enlarged_map(shape):
    """The share is the sum of the enlarged average within the box over its whole sum."""
    members = [np.random.default_rng(seed).random(shape) ** 4 for seed in (4, 5)]
    found = make_heat_map(members, 200, 100)  # the box ends between pixels
    inside = found.average[20:170, 15:85].sum() / found.average.sum()
    assert found.thorax_share == pytest.approx(inside, abs=1e-6)


@pytest.mark.parametrize(
    ("row", "column", "share"), [(4, 4, 1.0), (0, 4, 0.0), (9, 4, 0.0), (4, 0, 0.0), (4, 9, 0.0), (8, 4, 0.5)]
)
def test_where_the_box_is(row, column, share):
    """The box is the middle: a tenth at the top, 15 % at the bottom and at the sides are without."""
    heat = np.zeros((1, 10, 10))
    heat[0, row, column] = 1.0
    assert thorax_shares([heat], 10, 10) == pytest.approx([share])

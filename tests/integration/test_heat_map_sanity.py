"""Heat maps depend on what the networks learned: Adebayo et al., "Sanity Checks for Saliency Maps", 2018, 1810.03292.

Whatever only finds edges gives the same map with random weights.  Each trained map of the packaged bundle on the
packaged films is compared, by rank correlation, with the maps of the same network after its weights were drawn anew.
"""

import copy

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from xray_batch.bundle import PACKAGED_BUNDLES, Bundle
from xray_batch.decode import decode_file
from xray_batch.demo import sample_files
from xray_batch.heat_map import pneumonia_heat
from xray_batch.networks import forward_with_features
from xray_batch.records import Finding
from xray_batch.standardize import prepare

#: From the head to the stem: what a cascade draws anew, first the head alone, at last everything.
CASCADE = {
    "head": ("fc",),
    "last stage": ("fc", "layer4"),
    "everything": ("fc", "layer4", "layer3", "layer2", "layer1", "bn1", "conv1"),
}

SEEDS = 4


@pytest.fixture(scope="module")
def bundle():
    """Open the packaged bundle."""
    return Bundle(PACKAGED_BUNDLES / "default")


@pytest.fixture(scope="module")
def networks(bundle):
    """Load its members; tests do not change them."""
    return bundle.load_networks()


@pytest.fixture(scope="module")
def images(bundle):
    """Return the packaged films as model inputs."""
    paths = [path for path in sorted(sample_files().iterdir()) if "01" <= path.name[:2] <= "07"]
    pixels = [prepare(decode_file(path), bundle.manifest.input_spec).pixels for path in paths]
    return torch.from_numpy(np.stack(pixels))[:, None]


def map_of(network, images, bundle):
    """Return one member's maps of all films, shape (N, cells): what raises pneumonia, minus what lowers it."""
    with torch.inference_mode():
        logits, _, class_maps = forward_with_features(network, images, 1)
    normal = bundle.manifest.classes.index(Finding.NORMAL)
    class_maps, logits = class_maps.double().numpy(), logits.double().numpy()
    raises, lowers = (pneumonia_heat(sign * class_maps, logits, normal) for sign in (1, -1))
    return (raises - lowers).reshape(len(images), -1)


def draw_anew(network, parts, seed):
    """Return a copy of a network with random weights in some of its parts."""
    drawn = copy.deepcopy(network)
    torch.manual_seed(seed)
    for part in parts:
        for module in getattr(drawn, part).modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
    return drawn.eval()


def similarity(first, second):
    """Return the mean rank correlation of two sets of maps."""
    return np.mean([spearmanr(one, other).statistic for one, other in zip(first, second, strict=True)])


@pytest.fixture(scope="module")
def trained_maps(networks, images, bundle):
    """Return the maps of the trained members."""
    return [map_of(network, images, bundle) for network in networks]


def test_a_little_noise_keeps_the_maps(bundle, networks, images, trained_maps):
    """The control: noise of a tenth of a SD in every pixel leaves the trained maps nearly as they are."""
    noisy = images + 0.1 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    for network, trained in zip(networks, trained_maps, strict=True):
        assert similarity(trained, map_of(network, noisy, bundle)) > 0.9


@pytest.mark.parametrize("parts", CASCADE.values(), ids=CASCADE)
def test_random_weights_give_other_maps(parts, bundle, networks, images, trained_maps):
    """With weights drawn anew, over several draws, nothing of the trained maps is left."""
    found = [
        similarity(trained, map_of(draw_anew(network, parts, seed), images, bundle))
        for network, trained in zip(networks, trained_maps, strict=True)
        for seed in range(SEEDS)
    ]
    # Measured: means of -0.13 to 0.10, and 0.23 from draw to draw at most; the same weights give 1.
    assert abs(np.mean(found)) < 0.4

"""One-channel networks, and their start from weights of colour images."""

from unittest import mock

import pytest
import torch
import torchvision
from torch import nn

from xray_batch.architectures import ARCHITECTURES
from xray_batch.networks import for_inference, forward_with_features, load_backbone
from xray_batch.resnet import ResNet

CONSTRUCTORS = {"resnet34": torchvision.models.resnet34, "resnet50": torchvision.models.resnet50}


@pytest.fixture(params=ARCHITECTURES)
def architecture(request):
    """Name each architecture."""
    return request.param


def test_architectures():
    """The ensemble's architectures are ResNet-34 and ResNet-50."""
    assert ARCHITECTURES == ("resnet34", "resnet50")


def test_one_channel_in_class_count_out(architecture):
    """A network takes one channel, in the stem of the paper, and gives one logit per class."""
    network = ResNet(architecture, 4)
    assert network.conv1.weight.shape == (64, 1, 7, 7)
    assert network.fc.out_features == 4
    with torch.inference_mode():
        assert network.eval()(torch.zeros(2, 1, 32, 32)).shape == (2, 4)


@pytest.mark.parametrize("training", [False, True])
def test_the_same_as_torchvisions(architecture, training):
    """With the same weights, by the same names, the logits are those of torchvision's network, bit for bit."""
    expected = CONSTRUCTORS[architecture](weights=None, num_classes=4)
    expected.conv1 = nn.Conv2d(1, 64, kernel_size=7, stride=2, padding=3, bias=False)
    network = ResNet(architecture, 4)
    network.load_state_dict(expected.state_dict())
    images = torch.randn(2, 1, 96, 64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(network.train(training)(images), expected.train(training)(images))


def test_weights_are_drawn_only_if_asked_for(architecture):
    """All convolutions of a network to be trained are random by its seed; one to be loaded has none drawn."""
    drawn = []
    for _ in range(2):
        torch.manual_seed(7)
        drawn.append(ResNet(architecture, 4).state_dict())
    convolutions = [name for name, weight in drawn[0].items() if weight.dim() == 4]
    assert all(torch.equal(drawn[0][name], drawn[1][name]) and drawn[0][name].std() > 0 for name in convolutions)
    with mock.patch.object(nn.init, "kaiming_normal_") as draw:
        ResNet(architecture, 4, draw=False)
    draw.assert_not_called()


def test_residual_blocks_start_as_identity(architecture):
    """The last batch norm of each residual block starts at zero."""
    network = ResNet(architecture, 4)
    last = "bn2" if architecture == "resnet34" else "bn3"
    scales = [weight for name, weight in network.state_dict().items() if name.endswith(f"{last}.weight")]
    assert len(scales) == 16
    assert all(scale.abs().max() == 0 for scale in scales)


def test_unknown_architecture():
    """There is no network of an architecture that is not listed."""
    with pytest.raises(KeyError, match="resnet18"):
        ResNet("resnet18", 4)


def test_backbone_sums_the_colours(architecture):
    """A gray image gives the stem's output that the same image in three equal channels gives the backbone."""
    backbone = CONSTRUCTORS[architecture](weights=None)
    network = ResNet(architecture, 4)
    load_backbone(network, backbone.state_dict())
    gray = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = backbone.conv1(gray.expand(-1, 3, -1, -1))
        assert torch.allclose(network.conv1(gray), expected, atol=1e-5)
        expected = backbone.eval().layer1(backbone.bn1(expected))
        assert torch.allclose(network.eval().layer1(network.bn1(network.conv1(gray))), expected, atol=1e-4)


def test_backbone_keeps_the_own_head():
    """The classification layer keeps its own weights; those of ImageNet's classes are left out."""
    network = ResNet("resnet34", 4)
    head = network.fc.weight.clone()
    backbone = torchvision.models.resnet34(weights=None).state_dict()
    load_backbone(network, backbone)
    assert torch.equal(network.fc.weight, head)
    assert torch.equal(network.layer4[2].conv2.weight, backbone["layer4.2.conv2.weight"])


def test_backbone_of_one_channel():
    """Weights that have one input channel already are taken as they are."""
    network, backbone = ResNet("resnet34", 4), ResNet("resnet34", 2)
    load_backbone(network, backbone.state_dict())
    assert torch.equal(network.conv1.weight, backbone.conv1.weight)


@pytest.mark.parametrize("change", ["other architecture", "missing entry"])
def test_wrong_backbone(change):
    """Weights of another architecture, or with an entry missing, are refused; torch names the entries."""
    weights = ResNet("resnet50" if change == "other architecture" else "resnet34", 4).state_dict()
    if change == "missing entry":
        del weights["layer3.0.conv1.weight"]
    with pytest.raises(RuntimeError, match=r"layer3\.0\.conv"):
        load_backbone(ResNet("resnet34", 4), weights)


def test_features_come_with_the_same_logits(architecture):
    """The logits beside the features are those of the network itself, bit for bit."""
    network = ResNet(architecture, 4).eval()
    images = torch.randn(2, 1, 64, 48, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        logits, features, _ = forward_with_features(network, images, 3)
        assert torch.allclose(logits, network(images), rtol=0, atol=1e-6)
    channels = {"resnet34": 64 + 128 + 256 + 512, "resnet50": 256 + 512 + 1024 + 2048}[architecture]
    assert features.shape == (2, 9 * channels)
    assert features.dtype == torch.float32
    assert features.min() >= 0


def test_without_a_grid_there_are_no_features(architecture):
    """Who asks for no features gets none, and the same logits and class maps."""
    network = ResNet(architecture, 4).eval()
    images = torch.randn(2, 1, 64, 48, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        logits, features, class_maps = forward_with_features(network, images, None)
        expected = forward_with_features(network, images, 3)
    assert features.shape == (2, 0)
    assert torch.equal(logits, expected[0])
    assert torch.equal(class_maps, expected[2])


def test_features_are_means_of_parts():
    """A feature is the mean of one channel over one part of the picture; the last stage comes last."""
    network = ResNet("resnet34", 4).eval()
    images = torch.randn(1, 1, 128, 128, generator=torch.Generator().manual_seed(2))
    seen = []
    network.layer4.register_forward_hook(lambda module, inputs, output: seen.append(output))
    with torch.inference_mode():
        _, features, _ = forward_with_features(network, images, 2)
    last = features[0, -512 * 4 :].view(512, 2, 2)
    assert torch.allclose(last[:, 0, 1], seen[0][0, :, :2, 2:].mean((1, 2)), atol=1e-6)


def test_the_mean_of_a_class_map_is_its_logit(architecture):
    """A logit is the mean of its class map plus the bias; the map has the size of the last stage."""
    network = ResNet(architecture, 4).eval()
    images = torch.randn(2, 1, 128, 96, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        logits, _, class_maps = forward_with_features(network, images, 1)
    assert class_maps.shape == (2, 4, 4, 3)
    assert torch.allclose(class_maps.mean((2, 3)) + network.fc.bias, logits, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logits_and_class_maps_are_float32(dtype):
    """Logits and class maps keep their precision where the convolutions have less."""
    network = for_inference(ResNet("resnet34", 4).eval(), torch.device("cpu"), dtype)
    with torch.inference_mode():
        outputs = forward_with_features(network, torch.ones(1, 1, 64, 64, dtype=dtype), 1)
    assert {output.dtype for output in outputs} == {torch.float32}


def with_statistics(architecture):
    """Return a network whose batch norms have seen images: none of them does nothing."""
    network = ResNet(architecture, 4)
    torch.manual_seed(4)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    with torch.no_grad():
        network(torch.randn(8, 1, 64, 64))
    return network.eval()


def test_a_copy_for_inference_gives_the_same(architecture):
    """Folded batch norms change nothing but the last bits; none is left, and the network stays as it was."""
    network = with_statistics(architecture)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    images = torch.randn(2, 1, 64, 48, generator=torch.Generator().manual_seed(5))
    copied = for_inference(network, torch.device("cpu"), torch.float32)
    with torch.inference_mode():
        for expected, found in zip(
            forward_with_features(network, images, 2), forward_with_features(copied, images, 2), strict=True
        ):
            assert torch.allclose(expected, found, rtol=1e-3, atol=1e-4)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in copied.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_a_copy_for_inference_has_its_precision(architecture):
    """Every convolution is kept in the precision asked for; the last layer is not."""
    copied = for_inference(with_statistics(architecture), torch.device("cpu"), torch.bfloat16)
    assert {tensor.dtype for name, tensor in copied.named_parameters() if "fc" not in name} == {torch.bfloat16}
    assert {tensor.dtype for tensor in copied.fc.parameters()} == {torch.float32}


@pytest.mark.parametrize("counts", [(1, 16, 3), (16, 1)])
def test_packed_convolutions_give_the_same_bits(architecture, counts):
    """In bfloat16 on a CPU the weights are packed with the first batch, and no bit of an output changes."""
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("this CPU has no bfloat16")
    network, cpu = with_statistics(architecture), torch.device("cpu")
    packed = for_inference(network, cpu, torch.bfloat16)
    with mock.patch("xray_batch.networks.can_pack", return_value=False):
        plain = for_inference(network, cpu, torch.bfloat16)
    with torch.inference_mode():
        for count in counts:
            images = torch.randn(count, 1, 64, 48, generator=torch.Generator().manual_seed(count)).bfloat16()
            found, expected = (forward_with_features(each, images, 2) for each in (packed, plain))
            assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))
    convolutions = [weight for name, weight in packed.named_parameters() if name.endswith("_weight")]
    assert len(convolutions) == sum(isinstance(module, nn.Conv2d) for module in network.modules())
    assert all(weight.is_mkldnn for weight in convolutions)


@pytest.mark.parametrize("missing", ["_reorder_convolution_weight", "_convolution_pointwise"])
def test_a_torch_without_the_operators(missing):
    """Where torch has no operator of that name, convolutions stay as they are."""
    operators = {"_reorder_convolution_weight", "_convolution_pointwise", "_is_mkldnn_bf16_supported"} - {missing}
    with mock.patch.object(torch.ops, "mkldnn", mock.Mock(spec=list(operators))):
        network = for_inference(ResNet("resnet34", 4).eval(), torch.device("cpu"), torch.bfloat16)
    assert isinstance(network.conv1, nn.Conv2d)

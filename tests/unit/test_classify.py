"""From model inputs to predictions: pooling, calibration, thresholds, batches, devices."""

import gc
import math
import weakref
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from bundle_factory import make_manifest
from torch import nn

from xray_batch.bundle import Bundle
from xray_batch.classify import (
    Ensemble,
    describe_device,
    placed,
    pool,
    run_batches,
    select_device,
    select_dtype,
    softmax,
)
from xray_batch.errors import ConfigurationError, DeviceMemoryError, ReasonCode
from xray_batch.gate import GateLimits, InputGate, PictureKind
from xray_batch.networks import can_pack
from xray_batch.records import (
    Finding,
    ImageHeader,
    ImageWarning,
    ModelInput,
    Outcome,
    Prediction,
    Rejection,
    Scaling,
    SourceFormat,
)

#: What preparing measures; the networks do not look at it.
MEASURED = {"sharpness": -1.0, "input_mean": 0.5, "input_std": 0.25, "rendering": "identity"}
CPU = torch.device("cpu")

#: Logits of `log(p)`: their softmax is p.
SURE_NORMAL = (0.0, -40.0, -40.0, -40.0)
UNIFORM = (0.0, 0.0, 0.0, 0.0)

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU can be used here")


def model_inputs(count, seed=0):
    """Return standardized 32 x 32 images of noise."""
    pixels = np.random.default_rng(seed).standard_normal((count, 32, 32), dtype=np.float32)
    header = ImageHeader(source_format=SourceFormat.PNG)
    return [ModelInput(header=header, pixels=image, **MEASURED) for image in pixels]


class Staged(nn.Module):
    """What is used of a ResNet: stages, each of which hands the images on, and a head."""

    def __init__(self, head):
        super().__init__()
        for name in ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4", "avgpool"):
            self.add_module(name, nn.Identity())
        self.fc = head


class Head(nn.Module):
    """The last layer of a double: `logits` of the images, and weights for the class maps of their one channel."""

    def __init__(self, logits, weights=(0.0, 0.0, 0.0, 0.0)):
        super().__init__()
        self.logits = logits
        self.weight = torch.tensor(weights)[:, None]

    def forward(self, images):
        """Return the logits of the images."""
        return self.logits(images)


class Fixed(Staged):
    """A network that gives the same logits for every image."""

    def __init__(self, logits, weights=(0.0, 0.0, 0.0, 0.0)):
        super().__init__(Head(lambda images: torch.tensor(logits).expand(len(images), -1), weights))


def gate_of(bias, **limits):
    """Return a gate that looks at nothing: its logits are `bias`, its limits let all pass unless given."""
    open_limits = {"flag_above": math.inf, "refuse_above": math.inf, "sharpness_below": -math.inf}
    weight = np.zeros((4, len(PictureKind)), np.float32)
    return InputGate(weight, np.array(bias, np.float32), tuple(PictureKind), GateLimits(**(open_limits | limits)))


OPEN_GATE = gate_of([0.0] * len(PictureKind))


def ensemble_of(networks, gate=OPEN_GATE, /, **facts):
    """Return an ensemble of doubles."""
    own = {"members": make_manifest().members[: len(networks)], "temperature": 1.0, "disagreement_limit": 1.0}
    manifest = make_manifest(**(own | facts))
    bundle = SimpleNamespace(manifest=manifest, load_networks=lambda: networks, load_gate=lambda: gate)
    return Ensemble(bundle, device=CPU, dtype=torch.float32, batch_size=16)


def fixed_ensemble(*logits, **facts):
    """Return an ensemble whose members answer with known logits."""
    return ensemble_of([Fixed(member) for member in logits], **facts)


@pytest.fixture(scope="module")
def ensemble(bundle_folder):
    """Load the small bundle on the CPU, in float32."""
    return Ensemble(Bundle(bundle_folder), device=CPU, dtype=torch.float32, batch_size=4)


def table(predictions):
    """Return the probabilities as an array of shape (N, classes), classes in the order of the findings."""
    return np.array([[prediction.probabilities[finding] for finding in Finding] for prediction in predictions])


def test_softmax():
    """Softmax of known logits is known, and does not overflow."""
    assert np.allclose(softmax(np.log([[0.5, 0.25, 0.125, 0.125]])), [[0.5, 0.25, 0.125, 0.125]])
    assert softmax(np.array([[1e4, 0.0, -1e4]])).tolist() == [[1.0, 0.0, 0.0]]


FOUR = tuple(Finding)


def at(temperature):
    """Return a scaling without a shift."""
    return Scaling(temperature=temperature, shift=0.0)


MEMBERS = np.array([[[0.5, 0.25, 0.25, 0.0]], [[0.25, 0.75, 0.0, 0.0]]])


def test_pool_at_temperature_1():
    """With temperature 1 the pooled probabilities are the mean of the members'."""
    assert np.allclose(pool(MEMBERS, at(1.0), FOUR), [[0.375, 0.5, 0.125, 0.0]], atol=1e-12)


def test_pool_at_temperature_one_half():
    """With temperature 1/2 the mean is squared and made to sum to 1."""
    squares = np.array([9.0, 16.0, 1.0, 0.0])
    assert np.allclose(pool(MEMBERS, at(0.5), FOUR), [squares / squares.sum()], atol=1e-12)


def test_pool_at_high_temperature():
    """A temperature without end makes all classes equally likely."""
    members = np.array([[[0.7, 0.1, 0.1, 0.1]], [[0.4, 0.2, 0.2, 0.2]]])
    assert np.allclose(pool(members, at(1e6), FOUR), 0.25, atol=1e-5)


def test_pool_averages_before_it_calibrates():
    """The temperature is applied to the mean of probabilities, not to each member."""
    members = np.array([[[0.9, 0.1]], [[0.5, 0.5]]])
    pooled = pool(members, at(0.5), FOUR[:2])
    assert np.allclose(pooled, [[0.49 / 0.58, 0.09 / 0.58]])
    assert not np.allclose(
        pooled, np.mean([pool(members[[index]], at(0.5), FOUR[:2]) for index in range(2)], axis=0), atol=0.01
    )


def test_pool_shifts_the_log_odds_of_pneumonia():
    """The odds of pneumonia are multiplied, wherever normal stands; its kinds keep their shares."""
    pooled = pool(MEMBERS, Scaling(temperature=1.0, shift=float(np.log(5.0))), FOUR)
    assert np.allclose(pooled, [np.array([0.375, 2.5, 0.625, 0.0]) / 3.5])
    turned = pool(MEMBERS[:, :, ::-1], Scaling(temperature=1.0, shift=float(np.log(5.0))), FOUR[::-1])
    assert np.allclose(turned, pooled[:, ::-1])


def test_prediction_of_known_logits():
    """Known logits give known probabilities, by finding, and a known disagreement."""
    ensemble = fixed_ensemble(np.log([0.5, 0.25, 0.125, 0.125]), np.log([0.25, 0.25, 0.25, 0.25]))
    (prediction,) = ensemble.predict(model_inputs(1))
    expected = dict(zip(Finding, [0.375, 0.25, 0.1875, 0.1875], strict=True))
    assert prediction.probabilities == pytest.approx(expected, abs=1e-7)
    assert prediction.disagreement == pytest.approx(0.25, abs=1e-7)
    assert (prediction.threshold_low, prediction.threshold_high) == (0.25, 0.75)


def test_class_order_of_the_bundle():
    """Probabilities get their finding by the bundle's order of classes."""
    classes = (Finding.VIRAL_PNEUMONIA, Finding.COVID19_PNEUMONIA, Finding.NORMAL, Finding.BACTERIAL_PNEUMONIA)
    (prediction,) = fixed_ensemble(np.log([0.5, 0.25, 0.1875, 0.0625]), classes=classes).predict(model_inputs(1))
    assert prediction.probabilities[Finding.VIRAL_PNEUMONIA] == pytest.approx(0.5)
    assert prediction.probabilities[Finding.BACTERIAL_PNEUMONIA] == pytest.approx(0.0625)
    assert prediction.p_pneumonia == pytest.approx(1 - 0.1875)


def test_shift_of_the_bundle():
    """The bundle's shift moves the prediction."""
    plain, shifted = (
        fixed_ensemble(np.log([0.5, 0.25, 0.125, 0.125]), log_odds_shift=shift).predict(model_inputs(1))[0]
        for shift in (0.0, float(np.log(3.0)))
    )
    assert (plain.p_pneumonia, shifted.p_pneumonia) == pytest.approx((0.5, 0.75))


def test_temperature_of_the_bundle():
    """The bundle's temperature calibrates the prediction."""
    (prediction,) = fixed_ensemble(np.log([0.5, 0.25, 0.125, 0.125]), temperature=0.5).predict(model_inputs(1))
    assert prediction.probabilities[Finding.NORMAL] == pytest.approx(0.25 / 0.34375)


def after(value):
    """Return the next larger number."""
    return math.nextafter(value, 1.0)


@pytest.mark.parametrize(
    ("low", "high", "outcome"),
    [
        (0.25, 0.5, Outcome.PNEUMONIA),
        (0.25, 0.75, Outcome.PNEUMONIA),  # at the high threshold
        (0.25, after(0.75), Outcome.INDETERMINATE),
        (0.75, after(0.75), Outcome.INDETERMINATE),  # at the low threshold
        (after(0.75), after(0.75), Outcome.NORMAL),
        (0.8, 0.9, Outcome.NORMAL),
        (0.75, 0.75, Outcome.PNEUMONIA),  # no band between them
    ],
)
def test_thresholds(low, high, outcome):
    """P(pneumonia) of exactly 0.75 is pneumonia from the high threshold on, normal below the low one."""
    (prediction,) = fixed_ensemble(UNIFORM, threshold_low=low, threshold_high=high).predict(model_inputs(1))
    assert prediction.p_pneumonia == 0.75
    assert prediction.outcome is outcome


def test_members_that_disagree():
    """Members that differ by more than the limit make the answer indeterminate, however high the mean is."""
    members = (UNIFORM, SURE_NORMAL)
    facts = {"threshold_low": 0.1, "threshold_high": 0.2}
    (prediction,) = fixed_ensemble(*members, **facts).predict(model_inputs(1))
    assert prediction.disagreement == pytest.approx(0.75)
    at_limit = fixed_ensemble(*members, **facts, disagreement_limit=prediction.disagreement)
    below_limit = fixed_ensemble(*members, **facts, disagreement_limit=math.nextafter(prediction.disagreement, 0))
    assert at_limit.predict(model_inputs(1))[0].outcome is Outcome.PNEUMONIA
    assert below_limit.predict(model_inputs(1))[0].outcome is Outcome.INDETERMINATE


def test_probabilities_sum_to_1(ensemble):
    """The classes of each prediction sum to 1, and pneumonia is what normal is not."""
    for prediction in ensemble.predict(model_inputs(6)):
        assert sum(prediction.probabilities.values()) == pytest.approx(1.0, abs=1e-12)
        assert prediction.p_pneumonia == 1.0 - prediction.probabilities[Finding.NORMAL]
        assert all(0.0 < probability < 1.0 for probability in prediction.probabilities.values())
        assert 0.0 <= prediction.disagreement <= 1.0


def test_order_is_kept(ensemble):
    """The answers are in the order of the inputs, across batches."""
    inputs = model_inputs(6)
    forward = ensemble.predict(inputs)
    assert forward == ensemble.predict(inputs[::-1])[::-1]
    assert len(np.unique(table(forward)[:, 0].round(6))) == len(inputs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("sizes", [(1, 2, 3, 8, 16), (16, 1)], ids=["small first", "large first"])
def test_batch_size_does_not_matter(dtype, sizes, bundle_folder):
    """What is said of an image, and what the gate measures of it, is the same bit for bit in any company."""
    if not can_pack(CPU, dtype):
        pytest.skip(f"oneDNN does not compute in {dtype} here")
    ensemble = Ensemble(Bundle(bundle_folder), device=CPU, dtype=dtype, batch_size=16)
    inputs = model_inputs(17)
    expected = Ensemble(Bundle(bundle_folder), device=CPU, dtype=dtype, batch_size=1).examine(inputs)
    for size in sizes:
        groups = (inputs[start : start + size] for start in range(0, len(inputs), size))
        assert [answer for group in groups for answer in ensemble.examine(group)] == expected


def test_batches_are_bounded():
    """No forward pass takes more images than the batch size; all are taken once."""
    sizes = []

    def forward(images):
        sizes.append(tuple(images.shape))
        return images.flatten(1), images[:, 0, 0, 0]

    pixels = np.arange(7 * 8 * 9, dtype=np.float32).reshape(7, 8, 9)
    flat, first = run_batches(forward, pixels, batch_size=3)
    assert sizes == [(3, 1, 8, 9), (3, 1, 8, 9), (1, 1, 8, 9)]
    assert np.array_equal(flat, pixels.reshape(7, 72))
    assert np.array_equal(first, pixels[:, 0, 0])
    assert flat.dtype == np.float64


@pytest.mark.parametrize(("given", "together"), [(1, 1), (3, 3), (20, 16)])
def test_each_answer_tells_how_many_images_its_pass_had(given, together):
    """The answer is computed again in as many: the last bits may depend on it."""
    answers = fixed_ensemble(UNIFORM).answer(model_inputs(given))
    assert [images for _, images in answers] == [together] * given


def test_images_are_put_where_the_pass_wants_them():
    """A pass that is placed gets its images in its precision."""
    (given,) = placed(lambda images: (images,), CPU, torch.bfloat16)(torch.ones(2, 1, 3, 3))
    assert given.dtype == torch.bfloat16
    assert (given == 1).all()


def test_two_runs_are_equal(ensemble, bundle_folder):
    """The same images in the same batches give bit-equal answers, also after loading the bundle again."""
    inputs = model_inputs(5)
    first = ensemble.predict(inputs)
    again = Ensemble(Bundle(bundle_folder), device=CPU, dtype=torch.float32, batch_size=4)
    assert first == ensemble.predict(inputs) == again.predict(inputs)


def test_memory_is_freed_at_once(bundle_folder):
    """An ensemble goes with the last who holds it; it does not wait for the garbage collector, which seldom comes."""
    ensemble = Ensemble(Bundle(bundle_folder), device=CPU, dtype=torch.float32, batch_size=4)
    ensemble.predict(model_inputs(1))
    alive = weakref.ref(ensemble)
    gc.disable()
    try:
        del ensemble
        assert alive() is None
    finally:
        gc.enable()


def test_inputs_are_not_changed(ensemble):
    """Classifying leaves the model inputs as they were."""
    inputs = model_inputs(2)
    before = [model_input.pixels.copy() for model_input in inputs]
    ensemble.predict(inputs)
    assert all(np.array_equal(old, new.pixels) for old, new in zip(before, inputs, strict=True))


def test_no_images(ensemble):
    """No inputs give no predictions."""
    assert ensemble.predict([]) == []


def test_bfloat16_on_the_cpu(ensemble, bundle_folder):
    """bfloat16 stays within two percent of float32, and is not the same computation."""
    inputs = model_inputs(2)
    other = Ensemble(Bundle(bundle_folder), device=CPU, dtype=torch.bfloat16, batch_size=4)
    difference = np.abs(table(other.predict(inputs)) - table(ensemble.predict(inputs))).max()
    assert 0 < difference < 0.02


def test_device_auto_without_cuda(monkeypatch):
    """Without a GPU, `auto` is the CPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert select_device("auto") == select_device("cpu") == CPU


def test_device_auto_with_cuda(monkeypatch):
    """With a GPU, `auto` is the GPU, and `cpu` is still the CPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert select_device("auto") == select_device("cuda") == torch.device("cuda")
    assert select_device("cpu") == CPU


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA GPU here: nothing to refuse")
def test_cuda_that_is_not_there():
    """Asking for CUDA without a GPU is a configuration error that says what to set."""
    with pytest.raises(ConfigurationError, match=r"device is 'cuda', .* set it to 'auto' or 'cpu'"):
        select_device("cuda")


@pytest.mark.parametrize(
    ("capabilities", "dtype"),
    [
        ({"cpu_name": "Intel(R) Xeon(R)", "avx512_bf16": True, "amx_bf16": True}, torch.bfloat16),
        ({"cpu_name": "Intel(R) Xeon(R)", "avx512_bf16": True, "amx_bf16": False}, torch.float32),
        ({"cpu_name": "AMD EPYC 9554", "avx512_bf16": True}, torch.bfloat16),
        ({"cpu_name": "AMD EPYC 7763", "avx512_bf16": False}, torch.float32),
        ({}, torch.float32),
    ],
)
def test_dtype_auto_on_the_cpu(capabilities, dtype, monkeypatch):
    """`auto` is bfloat16 only on processors on which that is faster."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert select_dtype("auto", CPU) is dtype


@pytest.mark.parametrize(
    ("capabilities", "instructions"),
    [
        ({"avx512_bf16": False}, "AVX512"),
        ({"avx512_bf16": True}, "AVX512 AVX512_BF16"),
        ({"avx512_bf16": True, "amx_bf16": True}, "AVX512 AVX512_BF16 AMX_BF16"),
    ],
)
def test_description_of_a_cpu(capabilities, instructions, monkeypatch):
    """CPUs that compute in bfloat16 by other instructions, and so with other last bits, have other descriptions."""
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert describe_device(CPU) == f"cpu {instructions}, {torch.get_num_threads()} threads"


def test_dtype_by_name(monkeypatch):
    """A precision that is asked for is used, whatever the processor."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True})
    assert select_dtype("float32", CPU) is torch.float32
    assert select_dtype("bfloat16", CPU) is torch.bfloat16


@needs_cuda
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_cuda_agrees_with_the_cpu(dtype, ensemble, bundle_folder):
    """The GPU gives the CPU's probabilities: within 0.002 in float32, 0.02 in bfloat16."""
    inputs = model_inputs(6)
    other = Ensemble(Bundle(bundle_folder), device=select_device("cuda"), dtype=dtype, batch_size=4)
    difference = np.abs(table(other.predict(inputs)) - table(ensemble.predict(inputs))).max()
    assert difference < (2e-3 if dtype is torch.float32 else 2e-2)


@needs_cuda
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_cuda_answers_do_not_depend_on_the_batch(dtype, bundle_folder):
    """On a GPU, too, a film has the same answer bit for bit, alone or among others."""
    ensemble = Ensemble(Bundle(bundle_folder), device=select_device("cuda"), dtype=dtype, batch_size=4)
    inputs = model_inputs(7)
    together = ensemble.predict(inputs)
    assert {images for _, images in ensemble.answer(inputs[:3])} == {4}  # filled up
    assert together == [answer for one in inputs for answer in ensemble.predict([one])]
    assert together == ensemble.predict(inputs[:3]) + ensemble.predict(inputs[3:])


class Small(Staged):
    """A network whose device has memory for so many images; the sum of each is its logits."""

    def __init__(self, room):
        super().__init__(Head(self.sum))
        self.room = room

    def sum(self, images):
        """Return the logits, or run out of memory."""
        if len(images) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return images.sum(1, keepdim=True) * torch.tensor([[0.01, 0.0, 0.0, 0.0]])


def small_ensemble(room):
    """Return an ensemble that has room for so many images."""
    return ensemble_of([Small(room)])


def test_out_of_memory_halves_the_batch():
    """Where the device has no room for a batch, halves of it give the same answers in the same order."""
    inputs = model_inputs(7)
    assert np.array_equal(table(small_ensemble(2).predict(inputs)), table(small_ensemble(16).predict(inputs)))


def test_members_before_calibration():
    """Each member's own probabilities are given, in the bundle's order, untouched by the temperature."""
    ensemble = fixed_ensemble(SURE_NORMAL, UNIFORM, temperature=5.0)
    members, judgements = ensemble.examine_members(model_inputs(3))
    assert members.shape == (2, 3, 4)
    assert members[0] == pytest.approx(np.tile([1.0, 0.0, 0.0, 0.0], (3, 1)))
    assert members[1] == pytest.approx(np.full((3, 4), 0.25))
    assert len(judgements) == 3


def test_out_of_memory_halves_the_members():
    """Halves of a batch give the same members' probabilities, in the same order."""
    inputs = model_inputs(7)
    halved, whole = (small_ensemble(room).examine_members(inputs) for room in (2, 16))
    assert np.array_equal(halved[0], whole[0])
    assert halved[1] == whole[1]


def test_out_of_memory_for_one_image():
    """Where there is no room for one image, the error says so and may pass."""
    with pytest.raises(DeviceMemoryError, match="no memory left for one image"):
        small_ensemble(0).predict(model_inputs(2))


def test_probabilities_that_are_no_numbers_are_no_answer():
    """A network that gives NaN raises instead of answering `indeterminate`."""
    with pytest.raises(FloatingPointError, match="no finite numbers"):
        fixed_ensemble((math.nan, 0.0, 0.0, 0.0)).predict(model_inputs(1))


def test_features_that_are_no_numbers_are_no_answer():
    """Nor does the gate judge a picture by them."""
    with pytest.raises(FloatingPointError, match="no finite numbers"):
        ensemble_of([Fixed(UNIFORM)]).predict([image_of(np.full((32, 32), np.nan))])


INVERTED = [0.0, 8.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]  #: logits of a picture that the gate takes for inverted


def test_refused_by_the_gate():
    """A picture beyond the gate's limit is refused instead of answered, and the reason says what it looks like."""
    ensemble = ensemble_of([Fixed(UNIFORM)], gate_of(INVERTED, refuse_above=2.0))
    (answer,) = ensemble.predict(model_inputs(1))
    assert isinstance(answer, Rejection)
    assert answer.reason_code == ReasonCode.OUT_OF_DISTRIBUTION
    assert "black and white exchanged" in answer.reason


def test_flagged_by_the_gate():
    """A picture between the gate's limits is answered with a warning of its kind."""
    ensemble = ensemble_of([Fixed(UNIFORM)], gate_of(INVERTED, flag_above=2.0))
    (answer,) = ensemble.predict(model_inputs(1))
    assert isinstance(answer, Prediction)
    assert answer.warnings == (ImageWarning.SUSPECT_POLARITY,)


def test_the_gate_looks_at_the_features_of_its_own_member():
    """Not at those of the first, of which none are asked for here."""
    facts = make_manifest().gate.model_copy(update={"architecture": "resnet50"})
    ensemble = ensemble_of([Fixed(UNIFORM), Fixed(UNIFORM)], gate_of(INVERTED, refuse_above=2.0), gate=facts)
    assert [type(answer) for answer in ensemble.predict(model_inputs(2))] == [Rejection, Rejection]


def test_passed_by_the_gate():
    """A picture within the gate's limits has no warning."""
    (answer,) = ensemble_of([Fixed(UNIFORM)], gate_of(INVERTED)).predict(model_inputs(1))
    assert answer.warnings == ()


def image_of(pixels):
    """Return a model input of known pixels."""
    header = ImageHeader(source_format=SourceFormat.PNG)
    return ModelInput(header=header, pixels=np.float32(pixels), **MEASURED)


#: Weights of a head for which a bright pixel raises pneumonia, and of one for which it lowers it.
RAISES, LOWERS = (0.0, 1.0, 1.0, 1.0), (1.0, 0.0, 0.0, 0.0)

#: Bright in the middle, and in a corner.
MIDDLE, CORNER = np.zeros((40, 40)), np.zeros((40, 40))
MIDDLE[18:22, 18:22] = 1.0
CORNER[:2, :2] = 1.0


def test_heat_in_the_thorax():
    """The prediction says how much of the heat is in the middle: all, none or, over the members, the mean."""
    ensemble = ensemble_of([Fixed(UNIFORM, RAISES)])
    middle, corner, both = ensemble.predict([image_of(MIDDLE), image_of(CORNER), image_of(MIDDLE + 4 * CORNER)])
    assert middle.heat_in_thorax == pytest.approx(1.0)
    assert corner.heat_in_thorax == 0.0
    assert both.heat_in_thorax == pytest.approx(0.5)


def test_no_heat():
    """A picture of which no part raises pneumonia has no share of heat; a member without heat has no say."""
    (cold,) = ensemble_of([Fixed(UNIFORM, LOWERS)]).predict([image_of(CORNER)])
    assert cold.heat_in_thorax is None
    (mixed,) = ensemble_of([Fixed(UNIFORM, LOWERS), Fixed(UNIFORM, RAISES)]).predict([image_of(MIDDLE)])
    assert mixed.heat_in_thorax == pytest.approx(1.0)


def test_explanation(ensemble):
    """An explanation has the prediction of the image, and its heat map the share of the prediction."""
    (model_input,) = model_inputs(1)
    explanation = ensemble.explain(model_input)
    (prediction,) = ensemble.predict([model_input])
    assert explanation.prediction == prediction
    assert list(prediction.member_probabilities) == ["resnet34", "resnet50"]
    assert np.ptp(list(prediction.member_probabilities.values())) == pytest.approx(prediction.disagreement)
    assert explanation.heat_map.thorax_share == prediction.heat_in_thorax
    assert len(explanation.heat_map.members) == len(ensemble.manifest.members)
    assert explanation.heat_map.average.shape == model_input.pixels.shape


def test_probabilities_of_the_members():
    """Probabilities of the members are those of pneumonia before calibration, by architecture."""
    ensemble = ensemble_of([Fixed(UNIFORM, RAISES), Fixed(SURE_NORMAL, RAISES)], temperature=3.0)
    explanation = ensemble.explain(image_of(CORNER))
    assert explanation.prediction.member_probabilities == pytest.approx({"resnet34": 0.75, "resnet50": 0.0}, abs=1e-6)
    assert (explanation.prediction.input_mean, explanation.prediction.input_std) == (0.5, 0.25)
    assert explanation.judgement.rejection is None


def test_no_memory_to_explain():
    """Where there is no room for the image, the error says so."""
    with pytest.raises(DeviceMemoryError, match="no memory left for one image"):
        small_ensemble(0).explain(*model_inputs(1))


def test_heat_in_bfloat16(ensemble, bundle_folder):
    """In bfloat16 the share of heat stays within 0.05 of that in float32."""
    inputs = model_inputs(4)
    other = Ensemble(Bundle(bundle_folder), device=CPU, dtype=torch.bfloat16, batch_size=4)
    shares = [[prediction.heat_in_thorax for prediction in one.predict(inputs)] for one in (ensemble, other)]
    assert np.abs(np.subtract(*shares)).max() < 0.05

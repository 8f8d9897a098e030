"""Options of a training: two sources, and what is refused before anything is read."""

import pytest

from xray_batch.errors import ConfigurationError
from xray_batch.records import AgeRange
from xray_batch.training.backbone import FileBackbone, TorchvisionBackbone
from xray_batch.training.optimize import Recipe, Stage
from xray_batch.training.order import make_options


def refusal(**table):
    """Return the sentence with which options are refused."""
    with pytest.raises(ConfigurationError) as refused:
        make_options(table, {})
    return str(refused.value)


def test_the_command_line_wins():
    """An option of the command line is over that of the table; one that is not given hides nothing."""
    options = make_options({"seed": 3, "id": "table-cxr", "mixup": 0.5}, {"seed": 4, "id": None})
    assert (options.seed, options.id, options.mixup) == (4, "table-cxr", 0.5)


def test_recipes():
    """Options decide the recipe of both members; stages may be those of each."""
    options = make_options(
        {"stages": {"resnet50": "64x3@0.03,128x1@0.01"}, "batch_size": 8, "augmentation": "pose", "seed": 7},
        {"stages": {"resnet34": "32x2@.5,128x1@0.1", "resnet50": "64x3@0.03,128x1@0.01"}},
    )
    stages = (Stage(side=64, epochs=3, learning_rate=0.03), Stage(side=128, epochs=1, learning_rate=0.01))
    assert options.recipes["resnet50"] == Recipe(stages=stages, batch_size=8, augmentation="pose", seed=7)
    assert options.recipes["resnet34"].stages[0] == Stage(side=32, epochs=2, learning_rate=0.5)
    spec = options.input_spec(0.5, 0.25)
    assert (spec.rows, spec.columns, spec.mean, spec.std) == (128, 128, 0.5, 0.25)


@pytest.mark.parametrize("table", ["64x3@0.03", {"resnet34": "64x3@0.03"}, {"resnet34": "64x3@0.03", "resnet50": "x"}])
def test_stages_of_one_member_on_the_command_line(table):
    """Stages of one member leave those that the table has for the other."""
    recipes = make_options({"stages": table}, {"stages": {"resnet50": "64x5@0.01"}}).recipes
    assert recipes["resnet34"].stages == (Stage(side=64, epochs=3, learning_rate=0.03),)
    assert recipes["resnet50"].stages == (Stage(side=64, epochs=5, learning_rate=0.01),)


def test_stages_of_all_on_the_command_line():
    """Stages without the name of a member are those of both, whatever the table has."""
    recipes = make_options({"stages": {"resnet34": "64x3@0.03"}}, {"stages": "32x1@0.1"}).recipes
    assert {recipe.stages for recipe in recipes.values()} == {(Stage(side=32, epochs=1, learning_rate=0.1),)}


def test_picture_rules():
    """Each rule of the picture can be left out."""
    spec = make_options({"trim_borders": False, "stretch": False, "smooth": False}, {}).input_spec(0.5, 0.25)
    assert (spec.trim_borders, spec.stretch, spec.smooth) == (False, None, False)


def test_starting_weights(tmp_path):
    """Weights start random, from torchvision's, or from files."""
    assert make_options({}, {}).backbone is None
    assert isinstance(make_options({}, {"pretrained": True}).backbone, TorchvisionBackbone)
    assert isinstance(make_options({}, {"backbone_weights": [tmp_path / "resnet34.pth"]}).backbone, FileBackbone)


def test_ages():
    """Ages are two numbers of completed years, or not stated."""
    assert make_options({"ages": "1-5"}, {}).intended_ages == AgeRange(youngest=1, oldest=5)
    assert make_options({}, {}).intended_ages is None


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        ({"stages": "64x6"}, "stages has '64x6', expected SIDExEPOCHS@LEARNING_RATE such as 224x10@0.01"),
        ({"stages": "64x0@0.1"}, "stages has '64x0@0.1', expected"),
        (
            {"stages": {"resnet34": "64x1@0.1", "resnet50": "96x1@0.1"}},
            "the stages end at [64, 96] pixels: all members see the same input",
        ),
        ({"stages": {"resnet18": "64x1@0.1"}}, "stages names 'resnet18', expected resnet34 or resnet50"),
        (
            {"stages": "64x1@1e-3"},
            "stages has '64x1@1e-3', expected SIDExEPOCHS@LEARNING_RATE such as 224x10@0.01, "
            "the rate a decimal fraction between 0 and 1",
        ),
        ({"stages": "64x1@0.0"}, "stages has '64x1@0.0', expected"),
        ({"stages": "8x1@0.05"}, "the sides of the stages are [8], expected 32 or more, never shrinking"),
        (
            {"stages": "96x1@0.1,64x1@0.1"},
            "the sides of the stages are [96, 64], expected 32 or more, never shrinking",
        ),
        ({"stretch": [99.5, 0.5]}, "'stretch': [99.5, 0.5] is not two growing percentiles from 0 to 100, such as"),
        ({"stretch": [-5, 500]}, "'stretch': [-5.0, 500.0] is not two growing percentiles"),
        ({"seed": 2**32}, "'seed': Input should be less than 4294967296"),
        (
            {"pretrained": True, "backbone_weights": ["resnet34.safetensors"]},
            "pretrained and backbone_weights are two kinds of starting weights; leave one of them out",
        ),
        ({"ages": "five"}, "'ages': 'five' is not two numbers of years such as 1-5"),
        ({"ages": "5-1"}, "'ages': '5-1' is not two numbers of years such as 1-5"),
        ({"run_folds": 2}, "run_folds and only_cross_validate need folds"),
        ({"folds": 2, "run_folds": 3}, "run_folds is 3, but there are 2 folds"),
        ({"folds": 1}, "'folds': Input should be greater than or equal to 2"),
        ({"epochs": 3}, "'epochs': Extra inputs are not permitted"),
        ({"augmentation": "none"}, "'augmentation': Input should be 'full' or 'pose'"),
        ({"split_by": "image", "folds": 5}, "a split by image leaks: it measures (only_cross_validate)"),
    ],
)
def test_wrong_options(table, sentence):
    """A wrong option is refused by its name, with what is accepted."""
    refused = refusal(**table)
    assert refused.startswith("wrong training option")
    assert sentence in refused

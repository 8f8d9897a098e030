"""Training one member: the schedule, that it learns, and that an interruption leaves no trace."""

import copy
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from xray_batch.errors import TrainingDataError
from xray_batch.training import optimize as module
from xray_batch.training.loss import marginal_cross_entropy
from xray_batch.training.optimize import (
    Recipe,
    Stage,
    TrainingData,
    _Batch,
    _loss,
    at_side,
    learning_rate,
    train_member,
)

CPU = torch.device("cpu")

RECIPE = Recipe(
    stages=(Stage(side=12, epochs=2, learning_rate=0.1), Stage(side=16, epochs=2, learning_rate=0.05)),
    batch_size=8,
    ema_decay=0.9,
)


class Interrupted(Exception):
    """What stops a training in the middle."""


def tiny_network(seed=0):
    """Return a network with what the real ones have: convolutions, batch norm, a linear layer; and dropout."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.1),
        nn.Linear(8, 4),
    )


def striped_data(count=40):
    """Return 16 x 16 images: half of them smooth and normal, half striped and viral."""
    random = np.random.default_rng(0)
    striped = np.arange(count) % 2 == 1
    stripes = 0.5 * (np.arange(16) // 2 % 2)
    pixels = np.where(striped[:, None, None], stripes[:, None], 0.25) + random.random((count, 16, 16)) * 0.2
    targets = np.zeros((count, 4), dtype=bool)
    targets[np.arange(count), np.where(striped, 2, 0)] = True
    pixels = pixels.astype(np.float32)
    return TrainingData(pixels=pixels, targets=targets, mean=float(pixels.mean()), std=float(pixels.std()))


DATA = striped_data()


def train(
    checkpoint,
    recipe=RECIPE,
    data=DATA,
    *,
    network=None,
    compiled=False,
    dtype=torch.float32,
    on_step=None,
    on_epoch=None,
):
    """Train the tiny network on the CPU."""
    return train_member(
        tiny_network() if network is None else network,
        data,
        recipe,
        device=CPU,
        dtype=dtype,
        compiled=compiled,
        checkpoint=checkpoint,
        on_step=on_step or (lambda images: None),
        on_epoch=on_epoch or (lambda report, average: None),
    )


def state_bytes(network):
    """Return the weights of a network in a form that compares bit for bit."""
    return {name: tensor.numpy().tobytes() for name, tensor in network.state_dict().items()}


def interrupt_after(calls):
    """Return a callback that stops the training at its nth call."""
    seen = []

    def callback(*arguments):
        seen.append(arguments)
        if len(seen) == calls:
            raise Interrupted

    return callback


@pytest.mark.parametrize(("epoch", "rate"), [(0, 0.0), (1, 0.05), (2, 0.1), (6, 0.05), (10, 0.0)])
def test_learning_rate(epoch, rate):
    """The rate grows linearly from zero to its peak, then falls on a cosine to zero."""
    stage = Stage(side=32, epochs=10, learning_rate=0.1)
    assert learning_rate(stage, Recipe(stages=(stage,), warmup=0.2), epoch) == pytest.approx(rate, abs=1e-12)


def test_learning_rate_without_warmup():
    """Without a warm-up the first step has the peak rate."""
    stage = Stage(side=32, epochs=4, learning_rate=0.1)
    assert learning_rate(stage, Recipe(stages=(stage,), warmup=0.0), 0) == pytest.approx(0.1)


def test_epochs_of_a_recipe():
    """A recipe's epochs are those of its stages together."""
    assert RECIPE.epochs == 4


def test_at_side():
    """Images come at the stage's resolution: unchanged where they have it, else antialiased."""
    checkerboard = (np.indices((3, 32, 32)).sum(axis=0) % 2).astype(np.float32)
    assert torch.equal(at_side(checkerboard, 32, CPU)[:, 0], torch.from_numpy(checkerboard))
    small = at_side(checkerboard, 8, CPU)
    assert small.shape == (3, 1, 8, 8)
    assert torch.allclose(small, torch.tensor(0.5), atol=0.05)


def test_it_learns(tmp_path):
    """A few epochs teach the tiny network to tell stripes from none."""
    recipe = Recipe(stages=(Stage(side=16, epochs=12, learning_rate=0.3),), batch_size=8, ema_decay=0.9)
    losses = []
    network = train(tmp_path / "c", recipe, on_epoch=lambda report, average: losses.append(report.loss))
    with torch.inference_mode():
        logits = network(torch.from_numpy((DATA.pixels[:, None] - DATA.mean) / DATA.std))
    assert DATA.targets[np.arange(len(logits)), logits.argmax(dim=1)].mean() > 0.9
    assert losses[-1] < losses[0] / 2


def test_reports(tmp_path):
    """Each epoch is reported with its stage's side, and each image is counted once."""
    reports, steps = [], []
    train(tmp_path / "c", on_epoch=lambda report, average: reports.append(report), on_step=steps.append)
    assert [(report.epoch, report.side) for report in reports] == [(0, 12), (1, 12), (2, 16), (3, 16)]
    assert all(0 < report.loss < 10 for report in reports)
    assert sum(steps) == 4 * len(DATA.pixels)


def test_result_is_the_average(tmp_path):
    """The result is the average of the weights, in evaluation mode, not the last weights themselves."""
    network, averages = tiny_network(), []
    result = train(
        tmp_path / "c",
        network=network,
        on_epoch=lambda report, average: averages.append((average.training, state_bytes(average))),
    )
    assert averages[-1] == (False, state_bytes(result))
    assert state_bytes(result) != state_bytes(network)
    assert not result.training


def test_repeatable(tmp_path):
    """The same recipe and data give the same weights, bit for bit; another seed gives others."""
    first, again = train(tmp_path / "a"), train(tmp_path / "b")
    other = train(tmp_path / "c", replace(RECIPE, seed=1))
    assert state_bytes(first) == state_bytes(again)
    assert state_bytes(first) != state_bytes(other)


@pytest.mark.parametrize(
    ("name", "calls", "left"),
    [
        ("on_epoch", 1, [0, 1, 2, 3]),
        ("on_epoch", 2, [1, 2, 3]),
        ("on_epoch", 3, [2, 3]),
        ("on_step", 4, [0, 1, 2, 3]),
        ("on_step", 9, [1, 2, 3]),
        ("on_step", 20, [3]),
    ],
)
def test_interrupted_training(name, calls, left, tmp_path):
    """A training stopped between or within epochs goes on and ends with the weights of an undisturbed one."""
    undisturbed = train(tmp_path / "undisturbed")
    with pytest.raises(Interrupted):
        train(tmp_path / "interrupted", **{name: interrupt_after(calls)})
    torch.rand(3)  # what else the process draws must not matter
    epochs, steps = [], []
    resumed = train(
        tmp_path / "interrupted",
        on_epoch=lambda report, average: epochs.append(report.epoch),
        on_step=steps.append,
    )
    assert state_bytes(resumed) == state_bytes(undisturbed)
    assert epochs == left
    assert sum(steps) == 4 * len(DATA.pixels)


def test_finished_training(tmp_path):
    """A training that is complete is not done again; its weights come from the checkpoint."""
    first, epochs = train(tmp_path / "c"), []
    again = train(tmp_path / "c", on_epoch=lambda report, average: epochs.append(report))
    assert epochs == []
    assert state_bytes(again) == state_bytes(first)


def test_checkpoint_is_whole(tmp_path):
    """A checkpoint is replaced, never written in place: the one there is stays readable at any moment."""
    train(tmp_path / "c.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["c.safetensors"]


@pytest.mark.parametrize(
    "other", ["recipe", "precision", "labels", "pixels", "order", "statistics", "starting weights"]
)
def test_checkpoint_of_another_training(other, tmp_path):
    """A checkpoint of another recipe, precision, other data or other starting weights is refused, not continued."""
    with pytest.raises(Interrupted):
        train(tmp_path / "c", on_epoch=interrupt_after(2))
    changed = {
        "recipe": {"recipe": replace(RECIPE, weight_decay=0.0)},
        "precision": {"dtype": torch.bfloat16},
        "labels": {"data": replace(DATA, targets=~DATA.targets)},
        "pixels": {"data": replace(DATA, pixels=1 - DATA.pixels)},
        "order": {"data": replace(DATA, pixels=DATA.pixels[::-1], targets=DATA.targets[::-1])},
        "statistics": {"data": replace(DATA, mean=0.5)},
        "starting weights": {"network": tiny_network(seed=1)},
    }
    with pytest.raises(TrainingDataError) as refused:
        train(tmp_path / "c", **changed[other])
    assert str(refused.value) == (
        f"{tmp_path}/c was made with another recipe or precision, other data or other starting weights; "
        "remove it, or choose another folder with --out"
    )


def test_fewer_images_than_a_batch(tmp_path):
    """Data that do not fill one batch are refused: nothing would be learned from them."""
    with pytest.raises(TrainingDataError, match=r"^6 training images do not fill one batch of 8$"):
        train(tmp_path / "c", data=striped_data(6))


def test_images_are_not_changed(tmp_path):
    """Training augments copies: the data stay as they were."""
    before = DATA.pixels.copy()
    train(tmp_path / "c")
    assert np.array_equal(DATA.pixels, before)


def test_mixing_changes_the_training(tmp_path):
    """Mixed batches train other weights, and an interrupted mixed training ends with the same ones."""
    recipe = replace(RECIPE, mixup=1.0)
    mixed = state_bytes(train(tmp_path / "mixed", recipe))
    assert mixed != state_bytes(train(tmp_path / "plain"))
    with pytest.raises(Interrupted):
        train(tmp_path / "again", recipe, on_epoch=interrupt_after(2))
    assert state_bytes(train(tmp_path / "again", recipe)) == mixed


@pytest.mark.parametrize(("epochs", "unmixed"), [(1, 2), (4, 6), (10, 15)])
def test_last_batches_are_not_mixed(epochs, unmixed, tmp_path, monkeypatch):
    """In the last 15 % of a stage, however short it is, no batch is mixed."""
    asked = []

    def mix_nothing(images, random, probability):
        asked.append(probability)
        return images, torch.arange(len(images)), 1.0

    monkeypatch.setattr(module, "mix", mix_nothing)
    stage = Stage(side=16, epochs=epochs, learning_rate=0.1)
    train(tmp_path / "c", Recipe(stages=(stage,), batch_size=4, mixup=0.5))
    mixed = round(epochs * 10 * 0.85)
    assert len(asked) == epochs * 10
    assert set(asked[: mixed - 1]) <= {0.5}
    assert set(asked[-unmixed // 2 :]) == {0.0}
    assert abs(asked.count(0.0) - unmixed) <= 1


def test_loss_of_a_mixture():
    """The loss of a mixed batch is that of both targets in their shares."""
    logits = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    targets, partners = (torch.eye(4, dtype=torch.bool)[torch.tensor(rows)] for rows in ([0, 1, 2, 3, 0, 1], [1] * 6))
    batch = _Batch(images=torch.empty(0), targets=targets, partners=partners, share=0.75, progress=0.0)
    one, other = (marginal_cross_entropy(logits, labels, label_smoothing=0.05) for labels in (targets, partners))
    assert float(_loss(logits, batch, RECIPE)) == pytest.approx(float(0.75 * one + 0.25 * other))


@pytest.mark.skipif(shutil.which("cc") is None and shutil.which("gcc") is None, reason="compiling needs a C compiler")
def test_compiled_training(tmp_path):
    """A compiled network learns what the plain one learns, and is stored under the same names."""
    network = tiny_network()
    network[5].p = 0.0  # compiled networks draw other random numbers
    plain, compiled = (
        train(tmp_path / str(flag), network=copy.deepcopy(network), compiled=flag).state_dict()
        for flag in (False, True)
    )
    assert plain.keys() == compiled.keys()
    assert all(torch.allclose(plain[name], compiled[name], atol=1e-3) for name in plain)

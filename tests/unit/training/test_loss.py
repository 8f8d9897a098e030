"""The loss: cross-entropy for fine labels, marginal for coarse ones."""

import math

import pytest
import torch
from torch.nn import functional as F

from xray_batch.training.loss import COARSE_WEIGHT, marginal_cross_entropy

FINE = torch.eye(4, dtype=torch.bool)
COARSE = torch.tensor([[False, True, True, False]])


def random_logits(count=4):
    """Return logits of a usual size."""
    return torch.randn(count, 4, generator=torch.Generator().manual_seed(0)) * 3


@pytest.mark.parametrize("label_smoothing", [0.0, 0.05, 0.3])
def test_fine_labels(label_smoothing):
    """With fine labels the loss is torch's cross-entropy, label smoothing included."""
    logits = random_logits()
    expected = F.cross_entropy(logits, torch.arange(4), label_smoothing=label_smoothing)
    assert torch.allclose(marginal_cross_entropy(logits, FINE, label_smoothing=label_smoothing), expected)


def test_coarse_label():
    """With a coarse label the loss is minus the logarithm of the allowed findings' probability together."""
    logits = torch.tensor([[0.5, 0.25, 0.125, 0.125]]).log()
    loss = marginal_cross_entropy(logits, COARSE, label_smoothing=0.0)
    assert float(loss) == pytest.approx(-math.log(0.375))


def test_coarse_label_is_not_smoothed():
    """Label smoothing does not touch a coarse label: it is vague as it is."""
    logits = random_logits(1)
    assert marginal_cross_entropy(logits, COARSE, label_smoothing=0.3) == marginal_cross_entropy(
        logits, COARSE, label_smoothing=0.0
    )


def test_coarse_label_leaves_the_cause_open():
    """Moving probability between the allowed findings does not change the loss of a coarse label."""
    first = torch.tensor([[0.5, 0.3125, 0.0625, 0.125]]).log()
    second = torch.tensor([[0.5, 0.125, 0.25, 0.125]]).log()
    assert torch.allclose(
        marginal_cross_entropy(first, COARSE, label_smoothing=0.1),
        marginal_cross_entropy(second, COARSE, label_smoothing=0.1),
    )


def test_coarse_weight():
    """In a mixed batch a coarse label has half the weight of a fine one."""
    logits = torch.tensor([[0.5, 0.25, 0.125, 0.125], [0.5, 0.25, 0.125, 0.125]]).log()
    loss = marginal_cross_entropy(logits, torch.cat([FINE[:1], COARSE]), label_smoothing=0.0)
    assert COARSE_WEIGHT == 0.5
    assert float(loss) == pytest.approx((-math.log(0.5) - 0.5 * math.log(0.375)) / 1.5)


def test_gradient_is_finite():
    """Sure answers, right or wrong, fine or coarse, give a finite loss and gradient."""
    logits = torch.tensor([[200.0, 0.0, 0.0, -200.0]]).repeat(5, 1).requires_grad_()
    loss = marginal_cross_entropy(logits, torch.cat([FINE, COARSE]), label_smoothing=0.05)
    loss.backward()
    assert loss.isfinite()
    assert logits.grad.isfinite().all()
    assert logits.grad[4, 1] < 0 < logits.grad[4, 0]


def test_loss_of_a_label_that_allows_everything():
    """A label that allows every finding teaches nothing."""
    logits = random_logits(1).requires_grad_()
    loss = marginal_cross_entropy(logits, torch.ones(1, 4, dtype=torch.bool), label_smoothing=0.0)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0.0, abs=1e-6)
    assert float(logits.grad.abs().max()) == pytest.approx(0.0, abs=1e-6)

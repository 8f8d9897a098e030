"""Cross-entropy for labels that may be coarse."""

import torch
from torch import Tensor

#: Weight of an image whose label allows several findings, against 1 for the others: such labels are
#: text-mined and noisier.
COARSE_WEIGHT = 0.5


def marginal_cross_entropy(logits: Tensor, targets: Tensor, *, label_smoothing: float) -> Tensor:
    """Mean negative log-probability that the finding is one of those that the label allows.

    For one allowed finding this is cross-entropy with label smoothing; for several it is
    ``logsumexp(z) - logsumexp(z[allowed])`` without smoothing, weighted by :data:`COARSE_WEIGHT`.

    Parameters
    ----------
    logits
        Shape (N, classes), float32.
    targets
        Shape (N, classes), bool, at least one true in each row.

    Returns
    -------
    torch.Tensor
        Scalar, >= 0.
    """
    log_probabilities = torch.log_softmax(logits, dim=1)
    allowed = log_probabilities.masked_fill(~targets, -torch.inf)
    exact = -torch.logsumexp(allowed, dim=1)
    uniform = -log_probabilities.mean(dim=1)
    fine = targets.sum(dim=1) == 1
    smoothed = torch.where(fine, (1 - label_smoothing) * exact + label_smoothing * uniform, exact)
    weights = torch.where(fine, 1.0, COARSE_WEIGHT)
    return (smoothed * weights).sum() / weights.sum()

"""The expected calibration error by a loop, to check the product's with."""

from itertools import pairwise

import numpy as np


def expected_calibration_error(positive, probability, bins=15):
    """Mean distance between probability and frequency over equally filled bins, films of one probability together."""
    parts = np.array_split(np.sort(probability), bins)
    edges = [*sorted({part[0] for part in parts if len(part)}), np.inf]
    gaps = []
    for low, high in pairwise(edges):
        inside = (low <= probability) & (probability < high)
        gaps.append(abs(float(positive[inside].mean() - probability[inside].mean())) * inside.sum())
    return sum(gaps) / len(positive)

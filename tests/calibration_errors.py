"""The expected calibration error by a loop, to check the product's with."""

import numpy as np


def expected_calibration_error(positive, probability, bins=15):
    """Mean distance between probability and frequency over equally filled bins."""
    order = np.argsort(probability, kind="stable")
    parts = [part for part in np.array_split(order, bins) if len(part)]
    gaps = [abs(float(positive[part].mean() - probability[part].mean())) * len(part) for part in parts]
    return sum(gaps) / len(positive)

"""Make a bundle from labelled images: split, statistics, optimisation, calibration.

Images come in through the same ``decode`` and ``standardize`` that the service uses.
"""

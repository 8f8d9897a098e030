"""Batch classification of chest X-ray studies, as a Linux system service.

Research use only.  Not a medical device.
"""

#: Shown by every surface that shows a result.
DISCLAIMER = "Research use only. Not a medical device. Not for diagnosis, triage or rule-out."

__version__ = "0.1.0"

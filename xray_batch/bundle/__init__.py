"""A model bundle: a folder with a manifest and the weights it describes.

::

    manifest.json          every fact that inference needs, and where it comes from
    resnet34.safetensors   weights of one member, float16
    resnet50.safetensors
    gate.safetensors       the layer that tells films from other pictures
    training_images.safetensors   hashes of the training images, if they were kept
    MODEL_CARD.md          for people

A missing fact, an unknown fact or a changed byte is a :class:`BundleError`: nothing falls back to a
constant.  Weights are safetensors; no pickle is ever loaded.
"""

from xray_batch.bundle.files import (
    GATE_NAME,
    HASHES_NAME,
    member_files,
    save_gate,
    save_hashes,
    save_weights,
    write_manifest,
)
from xray_batch.bundle.folder import Bundle, find_bundle
from xray_batch.bundle.manifest import (
    AgeFacts,
    BinFacts,
    CalibrationFacts,
    DriftFacts,
    GateFacts,
    GateRate,
    HashFacts,
    InputFacts,
    Manifest,
    MemberFacts,
    Metric,
    OperatingPoint,
    OperatingPoints,
    Proportion,
    TrainingFacts,
)
from xray_batch.bundle_folders import MANIFEST_NAME, MODEL_CARD_NAME, PACKAGED_BUNDLES, bundle_folders

__all__ = [
    "GATE_NAME",
    "HASHES_NAME",
    "MANIFEST_NAME",
    "MODEL_CARD_NAME",
    "PACKAGED_BUNDLES",
    "AgeFacts",
    "BinFacts",
    "Bundle",
    "CalibrationFacts",
    "DriftFacts",
    "GateFacts",
    "GateRate",
    "HashFacts",
    "InputFacts",
    "Manifest",
    "MemberFacts",
    "Metric",
    "OperatingPoint",
    "OperatingPoints",
    "Proportion",
    "TrainingFacts",
    "bundle_folders",
    "find_bundle",
    "member_files",
    "save_gate",
    "save_hashes",
    "save_weights",
    "write_manifest",
]

"""Exception hierarchy and reason codes; imports nothing, so every module may import it.

The class of an exception decides what happens::

    * XrayBatchError
      x RejectedInputError      the file can never be analysed: one `not_analysed` row, no retry
      x TransientError          the world may recover: retry with back-off
        + DecoderDiedError      a decode worker died or hung: retry, then give the file up
        + UnpackerDiedError     the process that unpacks an archive died or hung: likewise
        + DeviceMemoryError     no memory for even one image on the device: retry
        + DatabaseUnavailableError the database cannot be reached, is locked or too slow: retry
          - DatabaseReadOnlyError it can be read, but not written: a stand-by server, or a role that only reads
      x ConfigurationError      an operator must act: exit 78, no restart
        + DeviceUnusableError   the device is not there, or cannot take the model: a cluster does without the node
        + BundleError           a model bundle is missing, incomplete or changed
        + DatabaseRevisionError the database schema is not the one this version knows
      x DatabaseRefusedError    the database refused a statement of ours: a bug, no retry
      x ReplayError             a stored result cannot be recomputed here: exit 1
      x TrainingDataError       the data cannot train or measure a model: exit 1
      x ClusterError            a Ray cluster cannot be reached, or has no worker left: exit 1
      x BenchmarkError          a run of a benchmark failed, so it says nothing: exit 1
      x ServiceFailedError      a bug of ours, or a device that has failed for good: exit 1, systemd starts it anew
      x LostFileError           a recorded file is in none of its places: alarm; must never happen
"""

import enum


class ReasonCode(enum.StrEnum):
    """Why a file was not analysed; stable, stored in `results.reason_code`."""

    EMPTY_FILE = "empty_file"  #: The file has no bytes.
    UNREADABLE_FILE = "unreadable_file"  #: No DICOM, PNG or JPEG that is read, or damaged beyond reading.
    ZIP_ARCHIVE = "zip_archive"  #: A zip archive: not to be unpacked, or its members are files of their own.
    TRUNCATED = "truncated"  #: The file ends before its content does, or its picture's data do before the picture.
    TOO_LARGE = "too_large"  #: More bytes or pixels than the limits allow.
    PIXEL_DATA = "pixel_data"  #: Pixel Data is missing, corrupt or contradicts its attributes.
    UNSUPPORTED_TRANSFER_SYNTAX = "unsupported_transfer_syntax"  #: No decoder for this DICOM encoding.
    UNSUPPORTED_SOP_CLASS = "unsupported_sop_class"  #: A DICOM object that is no projection radiograph.
    UNSUPPORTED_MODALITY = "unsupported_modality"  #: Modality is not CR, DX or RG.
    FOR_PROCESSING = "for_processing"  #: Raw detector data, not meant for presentation.
    NOT_A_CHEST = "not_a_chest"  #: Body Part Examined names another part of the body.
    LATERAL_VIEW = "lateral_view"  #: The view is not PA or AP.
    AGE_OUT_OF_RANGE = "age_out_of_range"  #: The patient's age is outside the bundle's; only where settings ask for it.
    MULTI_FRAME = "multi_frame"  #: More than one frame.
    COLOR_IMAGE = "color_image"  #: Colour where a grayscale radiograph is expected.
    BLANK_IMAGE = "blank_image"  #: All pixels have the same value.
    TOO_SMALL = "too_small"  #: Fewer pixels than a radiograph can have.
    OUT_OF_DISTRIBUTION = "out_of_distribution"  #: Unlike anything the model was trained on.
    ATTEMPTS_EXHAUSTED = "attempts_exhausted"  #: Every attempt to process the file ended abnormally.


class XrayBatchError(Exception):
    """Base class of every error that this package raises on purpose."""


class RejectedInputError(XrayBatchError):
    """The input can never be analysed.

    `str(error)` is one sentence for people: what was found and what is accepted.
    It may quote the file, so it goes to the database and never to a log.
    """

    def __init__(self, reason_code: ReasonCode, message: str) -> None:
        super().__init__(message)
        self.reason_code = reason_code


class TransientError(XrayBatchError):
    """The same work may succeed later."""


class DecoderDiedError(TransientError):
    """A decode worker died, or was ended for exceeding its time, while it had this file."""


class UnpackerDiedError(TransientError):
    """The process that unpacks an archive died, or was ended for exceeding its time."""


class DatabaseUnavailableError(TransientError):
    """The database cannot be reached, is locked, or did not answer in time; nothing was written."""


class DatabaseReadOnlyError(DatabaseUnavailableError):
    """The database can be read, but takes no writes from here: a stand-by server, a role or a file that only reads."""


class FoldersHangError(TransientError):
    """The folders, on a share whose server is gone for instance, do not answer, and nobody can wait any longer."""


class DeviceMemoryError(TransientError):
    """The device has not the memory to classify even one image; other work may be using it."""


class ConfigurationError(XrayBatchError):
    """A setting, bundle or database that only an operator can put right."""


class DeviceUnusableError(ConfigurationError):
    """The device that is asked for is not there, or cannot take the model."""


class BundleError(ConfigurationError):
    """A model bundle is missing, incomplete or not the one its manifest describes."""


class DatabaseRevisionError(ConfigurationError):
    """The database schema is not at the revision this version works with."""


class DatabaseRefusedError(XrayBatchError):
    """The database refused a statement that this package wrote: a broken constraint or a bug.

    The message names the constraint, never a value: rows hold patient data.
    """


class ReplayError(XrayBatchError):
    """A stored result cannot be recomputed: its original is not here, or gets no answer."""


class TrainingDataError(XrayBatchError):
    """The given images or targets cannot train or measure a model."""


class ClusterError(XrayBatchError):
    """A Ray cluster cannot be reached, or has no worker left; what was recorded stays."""


class BenchmarkError(XrayBatchError):
    """A run of a benchmark failed, so that its figures would say nothing; the message has its last words."""


class ServiceFailedError(XrayBatchError):
    """The service ended by an error that it cannot work on after; its log says which and where."""


class LostFileError(XrayBatchError):
    """A recorded file is neither in the spool nor where it would have been filed.

    No step of intake can cause this: somebody removed the file, or the disk did.
    """

"""The errors that users see: each names the thing that is wrong and the remedy."""


class WildHandsError(Exception):
    """Base of every error this package raises on purpose."""


class CameraError(WildHandsError):
    """A camera description that cannot be used (uncalibrated, NaN, unknown model, wrong size)."""


class ImageError(WildHandsError):
    """An image that cannot be read (zero size, wrong step, unknown encoding, truncated)."""


class ModelFileError(WildHandsError):
    """A model file that is missing, damaged, or not what it claims to be."""


class RecordingError(WildHandsError):
    """A bag, video or folder that cannot be read or written."""


class UnknownTypeError(RecordingError):
    """A message type whose definition is not installed, or cannot be read."""


class ConfigError(WildHandsError):
    """A parameter or configuration value that makes no sense."""

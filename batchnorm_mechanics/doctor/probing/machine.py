"""What TensorFlow cannot compute on the machine it runs on, whatever the model and the data."""

import re

from batchnorm_mechanics._exceptions import InputError
from batchnorm_mechanics._tensorflow import one_dnn_is_on

# TensorFlow's own kernels for the CPU take images in channels_last alone, and each says it in words
# of its own: "currently only supports the NHWC tensor format", "only supports NHWC".
_ONLY_CHANNELS_LAST = re.compile(r"only supports (the )?NHWC")


def missing_kernel(error: Exception, caller: str) -> InputError | None:
    """Return what to say of an error that is the machine's fault, and not that of the data.

    Args:
        error: raised where a model ran.
        caller: the function to name.

    Returns:
        None where the error is another.

    Example:
        >>> missing_kernel(ValueError("shapes do not fit"), "diagnose") is None
        True
    """
    if not _ONLY_CHANNELS_LAST.search(str(error)):
        return None
    way_out = (
        "Use a GPU, or build the model in channels_last."
        if one_dnn_is_on()
        else "Set TF_ENABLE_ONEDNN_OPTS=1 before Python starts: oneDNN's kernels compute it. "
        "Or use a GPU."
    )
    return InputError(
        f"{caller}: `model` must be one that this machine can run. Received: a model with "
        "data_format='channels_first', which the kernels that TensorFlow has chosen for this "
        f"processor do not compute. {way_out}"
    )

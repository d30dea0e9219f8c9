"""The tests run where they were told to run."""

import os

import pytest
from machine import why_no_channels_first

from batchnorm_mechanics._tensorflow import one_dnn_is_on

ASKED = os.environ.get("TF_ENABLE_ONEDNN_OPTS")


@pytest.mark.skipif(ASKED not in {"0", "1"}, reason="TensorFlow was left to choose its kernels")
def test_tensorflow_has_the_kernels_that_were_asked_for():
    assert one_dnn_is_on() == (ASKED == "1")


def test_convolutions_in_channels_first_are_there_with_one_dnn():
    # Otherwise the tests that need them would be skipped everywhere, and nobody would see it.
    if one_dnn_is_on():
        assert why_no_channels_first() is None

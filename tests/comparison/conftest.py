"""The networks, once for all tests of a process, and what they are compared on."""

import functools
from typing import NamedTuple

import compared_networks as networks
import numpy as np
import pytest


class Given(NamedTuple):
    """A network and data for it."""

    model: object
    data: np.ndarray


@functools.cache
def made(name):
    model = getattr(networks, name)()
    return Given(model, networks.data_for(model))


@pytest.fixture
def network():
    """Return what makes a network, settled, with data; nothing may change it."""
    return made

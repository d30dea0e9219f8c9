"""What was given to a subject in one case, what came back, and what should have come."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from batchnorm_mechanics.conformance.subject import Setting


@dataclass(frozen=True, eq=False)
class Evidence:
    """All data of one case, enough to try out what a mistaken implementation would have given.

    Attributes:
        setting: the setting as the subject was opened with it, with epsilon, momentum, gamma, beta,
            moving mean and moving variance all filled in: where the subject could not be set, with
            what it has by itself.
        momentum_weighs: what its momentum weighs by its documentation; None if it has none.
        unbiased: whether its moving average takes in the unbiased variance, by the conventions
            found.
        batches: what `train` was called with, in this order.
        masks: None or a mask for each batch.
        dy: gradient of the loss with respect to the output of the first batch.
        probe: what `infer` was called with, after all batches.
        actual: the subject's outputs by the names of `record`: the training output and the
            gradients belong to the first batch (in a session of its own for the gradients), the
            moving statistics to all batches, the inference output to `probe` after all batches.
        expected: the oracle's, float64. The inference output is the oracle's for the moving
            statistics that the subject itself has, so that one mistake is not counted twice.
        tolerance: absolute, float64, in the shape of the expected value.
        reloaded: whether the case asks for outputs after saving and loading.
    """

    setting: Setting
    momentum_weighs: Literal["old", "new"] | None
    unbiased: bool
    batches: tuple[np.ndarray, ...]
    masks: tuple[np.ndarray | None, ...]
    dy: np.ndarray
    probe: np.ndarray
    actual: Mapping[str, np.ndarray] = field(default_factory=dict)
    expected: Mapping[str, np.ndarray] = field(default_factory=dict)
    tolerance: Mapping[str, np.ndarray] = field(default_factory=dict)
    reloaded: bool = False

    @property
    def axes(self) -> tuple[int, ...]:
        """The axes reduced over."""
        kept = self.setting.kept or ()
        return tuple(axis for axis in range(len(self.setting.shape)) if axis not in kept)

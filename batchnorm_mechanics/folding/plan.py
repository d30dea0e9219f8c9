"""Which batch norm goes into which layer, and which stays and why."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import keras
import ml_dtypes
import numpy as np

from batchnorm_mechanics._keras import layers_in, own_variables
from batchnorm_mechanics.folding.paths import Paths, Reached, affine
from batchnorm_mechanics.folding.reasons import Reason, about, on_both_sides, plain
from batchnorm_mechanics.folding.taking import Taken, ahead, behind, is_alike, read
from batchnorm_mechanics.models.norms import Call, Norm, norms_in
from batchnorm_mechanics.models.wiring import baked_training, method_of_its_own


@dataclass(frozen=True)
class FoldPlan:
    """What folding does to a model.

    Attributes:
        weights: by id of a layer, its new weights in float64.
        folded: ids of the batch norm layers that go.
        left: by path of each other batch norm layer, why it stays.
        kinds: likewise, by the kinds of the layers beside it instead of their names.
        left_out: ids of what goes: the same layers, or the `TimeDistributed` that calls one.
        is_undefined: whether a layer gives no number whatever it gets: a batch norm whose scale or
            offset in inference is not finite, or another layer with NaN.
    """

    weights: Mapping[int, Taken]
    folded: frozenset[int]
    left: Mapping[str, str]
    kinds: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    left_out: frozenset[int] = frozenset()
    is_undefined: bool = False


def tolerance_of(dtype: str) -> float:
    """Return how far, relatively, a model that computes in a dtype may move when it is folded.

    Two equal sums in another order differ by some units in the last place, and layers add that up:
    1e-4 for float32, 16 units for what is coarser. Some deep models add up more: `fold` measures.
    """
    return max(1e-4, 16 * float(ml_dtypes.finfo(dtype).eps))


def plan_of(model: Any) -> FoldPlan:
    """Decide what to fold in a model.

    Args:
        model: a functional or sequential Keras model, with weights.
    """
    return _Planner(model).plan()


class _Planner:
    def __init__(self, model: Any) -> None:
        self.model = model
        self.norms = norms_in(model)
        self.paths = Paths(model)
        self.weights: dict[int, Taken] = {}

    def plan(self) -> FoldPlan:
        hosts = {id(norm.layer): self.paths.host(norm) for norm in self.norms}
        reasons = {norm.name: self._reason_to_stay(norm) for norm in self.norms}
        waiting = [norm for norm in self.norms if reasons[norm.name] is None]
        folded: set[int] = set()
        # Each norm that goes can bring another one next to a layer that takes it: go round until
        # nothing changes.
        while waiting:
            reasons |= {norm.name: self._fold(norm) for norm in waiting}
            gone = {id(norm.layer) for norm in waiting if reasons[norm.name] is None}
            if not gone:
                break
            folded |= gone
            waiting = [norm for norm in waiting if id(norm.layer) not in gone]
        left = {name: reason for name, reason in reasons.items() if reason is not None}
        return FoldPlan(
            MappingProxyType(self.weights),
            frozenset(folded),
            MappingProxyType({name: reason.text for name, reason in left.items()}),
            MappingProxyType({name: reason.general for name, reason in left.items()}),
            frozenset(id(hosts[layer]) for layer in folded),
            is_undefined=self._is_undefined(),
        )

    def _is_undefined(self) -> bool:
        # Whatever flag a call has: Keras predicts by the moving statistics.
        if not all(np.isfinite(affine(norm)).all() for norm in self.norms):
            return True
        norms = {id(norm.layer) for norm in self.norms}
        others = [layer for layer in layers_in(self.model) if id(layer) not in norms]
        weights = [one for layer in others for one in own_variables(layer) if "float" in one.dtype]
        numbers = (np.asarray(keras.ops.convert_to_numpy(one), np.float64) for one in weights)
        return any(np.isnan(one).any() for one in numbers)

    def _reason_to_stay(self, norm: Norm) -> Reason | None:
        """Return why a norm cannot go, whatever stands beside it."""
        calls, host = self.paths.calls_of(norm), self.paths.host(norm)
        if not calls or any(id(call.graph) not in self.paths.reached for call in calls):
            container = norm.name.rpartition("/")[0]
            within = f" of {container}" if container else ""
            general = " of what holds it" if container else ""
            text = "it is called by Python code{}, which cannot be rewritten"
            return Reason(text.format(within), text.format(general))
        if others := [one for one in self.paths.callers(norm.layer) if one is not host]:
            text = "it is called by Python code of {} too, which cannot be rewritten"
            return Reason(text.format(others[0].name), text.format("what holds it"))
        if method := method_of_its_own(norm.layer, ("__call__", "build", "call")):
            return plain(f"it has a `{method}` of its own, which may compute something else")
        if norm.layer.trainable and any(
            baked_training(call.node) or self.paths.reached[id(call.graph)].training
            for call in calls
        ):
            return plain("training=True is baked into its call, so it normalizes by the batch")
        if not np.isfinite(affine(norm)).all():
            return plain(
                "its statistics, gamma or beta are not finite, or its variance is negative"
            )
        if any(self.paths.axis(norm, call) == 0 for call in calls):
            return plain("it keeps the axis of the samples")
        return None

    def _fold(self, norm: Norm) -> Reason | None:
        """Put a norm into a layer beside it, or return why neither takes it."""
        before = self._into(norm, self.paths.before(norm), back=True)
        if before is not None:
            after = self._into(norm, self.paths.after(norm), back=False)
            if after is not None:
                return on_both_sides(before, after)
        self.paths.look_through(norm)
        return None

    def _into(self, norm: Norm, found: list[Reached] | Reason, *, back: bool) -> Reason | None:
        """Keep new weights of all layers that take a norm in, or return why one cannot."""
        if isinstance(found, Reason):
            return found
        new: dict[int, Taken] = {}
        by_layer: dict[int, list[Reached]] = {}
        for one in found:
            by_layer.setdefault(id(one.taker.layer), []).append(one)
        for key, reached in by_layer.items():
            (_, taker, got), times = reached[0], self.paths.times(reached[0].taker.host)
            # A kernel is one for all calls of its layer: each must get the same of this norm.
            if len({id(one.node) for one in reached}) < times:
                return about(taker.host, f"is called {times} times")
            if not all(is_alike(got, one.got) for one in reached):
                return about(taker.host, "would need other weights in each of its calls")
            if not back and (reason := _digits_lost(norm, self.paths.calls_of(norm), taker.layer)):
                return about(taker.host, *reason)
            weights = self.weights.get(key) or read(taker.layer)
            made = behind(weights, got) if back else ahead(taker, weights, got)
            if isinstance(made, str):
                return about(taker.host, made)
            dtype = taker.layer.compute_dtype
            largest = float(ml_dtypes.finfo(dtype).max)
            if any(np.any(np.abs(part) > largest) for part in (*made.kernels, made.bias)):
                return about(taker.host, f"would need weights beyond the range of {dtype}")
            new[key] = made
        self.weights |= new
        return None


def _digits_lost(norm: Norm, calls: Iterable[Call], layer: Any) -> tuple[str, str] | None:
    """Return why the next layer would compute too coarsely on what is not normalized, or None.

    It would sum numbers of the size of the mean to get one of the size of the deviation. The layer
    before a norm has done that already, so there the question does not arise.

    Returns:
        The reason with its figure and without.
    """
    if any("float" not in call.node.input_tensors[0].dtype for call in calls):
        return "would get integers", "would get integers"
    times = float(np.max(np.abs(norm.mean) / np.sqrt(norm.variance + norm.layer.epsilon)))
    dtype = layer.compute_dtype
    if times * float(ml_dtypes.finfo(dtype).eps) <= tolerance_of(dtype) / 4:
        return None
    why = f"would lose digits in {dtype}: its mean is"
    return f"{why} up to {times:.3g} times the deviation", f"{why} many times the deviation"

"""`compare` says where two models begin to differ, and whether batch norm is why."""

import os
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from batchnorm_mechanics._exceptions import InputError
from batchnorm_mechanics.comparison.causes import Cause, explain
from batchnorm_mechanics.comparison.floors import floor_of, on_grid
from batchnorm_mechanics.comparison.forms import opened
from batchnorm_mechanics.comparison.keras_form import KerasForm
from batchnorm_mechanics.comparison.layouts import EXACT, decibels, distance, nearest
from batchnorm_mechanics.comparison.matching import Joined, Walk
from batchnorm_mechanics.comparison.opening import Opened
from batchnorm_mechanics.comparison.ran import Array, Ran, Value, root_mean_square
from batchnorm_mechanics.comparison.result import Comparison, Output, Row
from batchnorm_mechanics.comparison.same_graph import Change, changes_of, paired
from batchnorm_mechanics.comparison.values_alone import rows_by_value
from batchnorm_mechanics.models.data import as_data

DEFAULT_SAMPLES = 8


def compare(
    a: Any,
    b: Any,
    data: Any,
    *,
    samples: int = DEFAULT_SAMPLES,
    min_sqnr: float | None = None,
    max_size: int | None = None,
) -> Comparison:
    """Compare two models on the same data, stage by stage, and say where they begin to differ.

    The layers of A run one by one on what B computed, so that the error of one stage does not
    reach the next, and B's tensors are known by their values, whatever they are called. Neither
    model changes.

    Args:
        a: a Keras model, or the path of a file: Keras's, ONNX, LiteRT, or OpenVINO's .xml. Of any
            but Keras's functional and sequential ones stages are matched by value alone, and
            causes are not tried.
        b: likewise; what was made of A by an export, a fold, a repair or a port.
        data: as `diagnose` takes them. Random ones would say nothing about what matters.
        samples: how many of them to take, the first ones. All that B computes of them is in memory
            at once.
        min_sqnr: how many decibels the outputs must have, signal to difference, for the models to
            agree; by default every stage must be within its rounding.
        max_size: how many bytes a file may hold; by default 10 times its size and 100 MiB.

    Returns:
        `Comparison`: the answer in a sentence, the outputs' distance, and of each stage what it
        adds itself, what it inherits, and whether rounding explains it.

    Raises:
        InputError: a model cannot be opened or run, or the data do not fit it.

    Numerics:
        What rounding explains is derived for each stage: from what a unit in the last place of its
        inputs and weights does to it and from the length of its sums, and for a quantized tensor
        from the distance s of its numbers, s / sqrt(12). A stage differs where it adds more than 4
        times the one and 2 times the other; behind a function that ends at 1, as a sigmoid, a unit
        in the last place of 1 is rounding, too.

    Example:
        >>> layer = keras.layers.BatchNormalization(name="bn")
        >>> model = keras.Sequential([keras.layers.Input((3,)), layer, keras.layers.ReLU()])
        >>> other = keras.models.clone_model(model)
        >>> other.layers[0].epsilon = 0.1
        >>> found = compare(model, other, np.arange(24.0).reshape(8, 3))
        >>> found.agrees, found.start.name, found.start.cause.code
        (False, 'bn', 'epsilon')
    """
    _check(samples, min_sqnr)
    names = _name(a, "A"), _name(b, "B")
    first = opened(a, argument="a", most=max_size, caller="compare")
    second = opened(b, argument="b", most=max_size, caller="compare")
    return compared(first, second, data, names=names, samples=samples, min_sqnr=min_sqnr)


def compared(
    a: Opened,
    b: Opened,
    data: Any,
    *,
    names: tuple[str, str],
    samples: int = DEFAULT_SAMPLES,
    min_sqnr: float | None = None,
) -> Comparison:
    """Compare two models that are open; as `compare` does."""
    given = _first(data, samples)
    tensors = a.tensors(given) if isinstance(a, KerasForm) else _by_name(given, a.names)
    inputs = list(map(np.asarray, tensors))
    ran = b.run(_in_order(inputs, a.names, b.names))
    places = [ran.inputs[at] for at in _order(a.names, b.names, len(inputs))]
    # What B rounded before it began is what A's layers are run on.
    tensors = [_as_held(one, ran.values[at]) for one, at in zip(tensors, places, strict=False)]
    found = _Found(ran, places)
    if isinstance(a, KerasForm) and a.calls is not None:
        found.walk(a, b, tensors)
    else:
        found.by_value(a.run(inputs))
    return Comparison(
        names=names,
        forms=(a.form, b.form),
        samples=len(inputs[0]),
        outputs=tuple(found.outputs),
        rows=tuple(found.rows),
        lost=tuple(found.lost),
        changes=found.changes,
        notes=tuple(found.notes),
        is_quantized=any(value.grid is not None for value in ran.values),
        min_sqnr=min_sqnr,
    )


def _check(samples: Any, min_sqnr: Any) -> None:
    if isinstance(samples, bool) or not isinstance(samples, int) or samples < 1:
        raise InputError(
            "compare: `samples` must be an integer of 1 or more. "
            f"Received: samples={samples!r}. Leave it out for {DEFAULT_SAMPLES}."
        )
    if min_sqnr is not None and not (isinstance(min_sqnr, int | float) and np.isfinite(min_sqnr)):
        raise InputError(
            "compare: `min_sqnr` must be a number of decibels. "
            f"Received: min_sqnr={min_sqnr!r}. Leave it out to ask for rounding alone."
        )


def _name(model: Any, which: str) -> str:
    if isinstance(model, str | os.PathLike):
        return os.fspath(model)
    return str(getattr(model, "name", which))


def _first(data: Any, samples: int) -> Any:
    """Return the first samples, of all inputs, in memory."""
    batches, rows = [], 0
    for inputs, _ in as_data(data, samples=samples, caller="compare"):
        batches.append(inputs)
        rows += len(keras.tree.flatten(inputs)[0])
        if rows >= samples:
            break
    if not batches:
        raise InputError(
            "compare: `data` must hold at least one sample. Received: none. "
            "A dataset that can be gone through once only is empty the second time."
        )
    return keras.tree.map_structure(lambda *parts: np.concatenate(parts), *batches)


def _by_name(given: Any, names: Sequence[str]) -> list[Any]:
    """Return arrays in the order of a model's inputs: by name where all are the same."""
    if isinstance(given, dict) and set(given) == set(names):
        return [given[name] for name in names]
    return keras.tree.flatten(given)


def _order(a: Sequence[str], b: Sequence[str], count: int) -> list[int]:
    """Return for each input of A its place among B's: by name where all are the same."""
    if set(a) == set(b) and len(set(a)) == len(a) == count:
        return [list(b).index(name) for name in a]
    return list(range(count))


def _as_held(tensor: Any, value: Value) -> Any:
    if value.grid is None:
        return tensor
    laid = nearest(value.array, np.asarray(tensor))
    return tensor if laid is None else keras.ops.convert_to_tensor(laid.array)


def _in_order(inputs: list[Array], a: Sequence[str], b: Sequence[str]) -> list[Array]:
    order = _order(a, b, len(inputs))
    placed = dict(zip(order, inputs, strict=True))
    return [placed[at] for at in range(len(inputs))]


class _Found:
    """What is found on the way."""

    def __init__(self, ran: Ran, inputs: Sequence[int]) -> None:
        self.ran, self.inputs = ran, inputs
        self.rows: list[Row] = []
        self.outputs: list[Output] = []
        self.lost: list[str] = []
        self.notes: list[str] = []
        self.changes: tuple[Change, ...] = ()

    def walk(self, a: KerasForm, b: Opened, tensors: Sequence[Any]) -> None:
        """Walk through A's graph."""
        calls = a.calls
        assert calls is not None  # noqa: S101 - the caller asked
        pairs = None
        if isinstance(b, KerasForm) and b.calls is not None:
            both = paired(calls, b.calls)
            if both is not None:
                self.changes = changes_of(both)
                pairs = {
                    one: position
                    for (stage, _), step in zip(both, self.ran.steps, strict=True)
                    for one, position in zip(stage.outputs, step.outputs, strict=True)
                }
        walk = Walk(calls, self.ran, self.inputs, tensors, pairs)
        for joined in walk:
            self.rows.append(self._row(joined, walk))
        self.lost = [stage.name for stage in walk.lost()]
        self._compare_outputs([(np.asarray(walk.own[one]), 0.0) for one in calls.outputs])

    def by_value(self, own: Ran) -> None:
        """Match what A computed with what B did."""
        self.rows, self.lost = rows_by_value(own, self.ran)
        self._compare_outputs(
            [
                (None, 0.0) if at is None else (own.values[at].array, own.unit(at))
                for at in own.outputs
            ]
        )
        self.notes.append(
            "A is no functional or sequential Keras model, so that its layers cannot be run on B's "
            "values: stages are matched by their values alone, and causes were not tried."
        )

    def _row(self, joined: Joined, walk: Walk) -> Row:
        floor = floor_of(joined, self.ran)
        expected, saturated = on_grid(joined.expected, joined, self.ran)
        array = joined.found.array
        size, own = joined.size, joined.found.distance
        if expected is not joined.expected:
            size, own = root_mean_square(expected), distance(expected, array)
        differs = bool(own > floor)
        cause: Cause | None = None
        if differs:
            cause = self._by_weights(joined) or explain(joined, walk, floor)
        return Row(
            layers=tuple(stage.name for stage in joined.stages),
            counterpart=self.ran.values[joined.found.position].name,
            own=decibels(size, own),
            inherited=decibels(root_mean_square(joined.own), distance(joined.own, array)),
            floor=decibels(size, floor),
            differs=differs,
            cause=cause,
            by=joined.found.by,
            saturated=saturated,
        )

    def _by_weights(self, joined: Joined) -> Cause | None:
        """Return the cause where both models' weights and settings are at hand."""
        name = joined.stages[-1].name
        found = [change for change in self.changes if change.layer == name]
        if not found:
            return None
        codes = {change.what for change in found}
        code = found[0].what if len(codes) == 1 else "weights"
        words = "whose " + ", ".join(f"{one.what} {_is(one)}{one.words}" for one in found)
        return Cause(code, words, name, 0.0, is_norm=found[0].is_norm)

    def _compare_outputs(self, wanted: Sequence[tuple[Array | None, float]]) -> None:
        """Compare what A gives, with the least distance that it tells apart, and what B does."""
        if len(wanted) != len(self.ran.outputs):
            self.notes.append(
                f"A has {len(wanted)} outputs and B {len(self.ran.outputs)}: "
                "as many as both have were compared, in their order."
            )
        pairs = zip(wanted, self.ran.outputs, strict=False)
        for at, ((expected, unit), position) in enumerate(pairs):
            if expected is None or position is None:
                self.notes.append(f"Output {at} does not depend on the inputs.")
                continue
            actual = self.ran.values[position].array
            if actual.size != expected.size:
                raise InputError(
                    "compare: `b` must have outputs of A's shapes. Received: an output of shape "
                    f"{actual.shape}, where A has {expected.shape}. Compare models of one task."
                )
            name = f"output {at}" if len(wanted) > 1 else "output"
            least = max(unit, self.ran.unit(position))
            self.outputs.append(_output(name, expected, actual, least))


def _is(change: Change) -> str:
    return "is " if change.relative is None else ""


def _output(name: str, expected: Array, actual: Array, least: float) -> Output:
    wanted = expected.astype(np.float64)
    laid = nearest(actual.astype(np.float64), wanted)
    if laid is None:
        return Output(name, -EXACT, float("inf"), None)
    array, gap = laid.array, laid.distance
    with np.errstate(invalid="ignore", divide="ignore"):
        largest = np.max(np.abs(array - wanted)) / np.max(np.abs(wanted))
    top = None
    if wanted.ndim >= 2 and wanted.shape[-1] > 1:
        top = float(np.mean(np.argmax(array, -1) == np.argmax(wanted, -1)))
    sqnr = decibels(root_mean_square(wanted), gap)
    return Output(name, sqnr, float(largest), top, is_rounding=gap <= least)

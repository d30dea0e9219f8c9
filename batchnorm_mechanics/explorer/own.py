"""What the page shows of the user's own model: its batch norm layers, as they ran on data."""

import itertools
from collections.abc import Iterable, Mapping
from typing import Any

import keras
import numpy as np

from batchnorm_mechanics._version import __version__
from batchnorm_mechanics.doctor.calls import Runner, build
from batchnorm_mechanics.doctor.diagnose import diagnose
from batchnorm_mechanics.doctor.heard import Said
from batchnorm_mechanics.doctor.measuring import kept
from batchnorm_mechanics.doctor.pools import Pools
from batchnorm_mechanics.explorer import looks
from batchnorm_mechanics.explorer.told import told
from batchnorm_mechanics.layers import BatchNormalization
from batchnorm_mechanics.models.data import Data
from batchnorm_mechanics.models.norms import Norm, norms_in
from batchnorm_mechanics.tracing.record import Trace
from batchnorm_mechanics.tracing.tracer import trace

# A page is for looking at; the doctor's report has all of them.
MOST_LAYERS, MOST_BATCHES, MOST_CHANNELS = 24, 200, 64
# As room 1 has them.
_ROWS, _COLUMNS = 16, 8


def own_model(model: Any, data: Data, *, name: str, data_name: str) -> dict[str, Any]:
    """Return what the page shows of a model.

    Nothing of the model changes.

    Args:
        model: any Keras model.
        data: batches that it takes.
        name: of its file.
        data_name: of theirs.

    Returns:
        A dictionary that JSON can hold: "told", what the doctor says, and for each of the first
        layers "by", who computed what it gave. Its input and output in inference are the model's
        own; the count, mean and biased variance of each of the first batches, as training would see
        them, are measured by the doctor, which has the layers before it normalize by the batch; the
        normalized values are the trace's; how its moving statistics fit follows from these.

    Raises:
        InputError: as `diagnose`.
    """
    diagnosis = diagnose(model, data)
    build(model, data, caller="explore")
    norms = norms_in(model)
    shown = norms[:MOST_LAYERS]
    heard = _heard(model, norms, data)
    first, _ = next(iter(data))
    made = [
        _layer(norm, heard[norm.name], _traced(model, norm, first))
        for norm in shown
        if heard.get(norm.name)
    ]
    layers = [layer for layer in made if layer is not None]
    # What is drawn beside them: a normal distribution.
    points = np.random.default_rng(0).normal(size=100_000)
    return {
        "name": name,
        "data": data_name,
        "told": told(diagnosis, name=name),
        "layers": layers,
        "left": len(norms) - len(layers),
        "bins": {"low": looks.LOW, "high": looks.HIGH},
        "normal": looks.density(points),
    }


def _heard(model: Any, norms: tuple[Norm, ...], data: Data) -> Mapping[str, list[Said]]:
    """Return what the first call of each layer got of each batch, as training would see it."""
    names = [norm.name for norm in norms]
    run = Runner(model, norms, by_batch=names, call=data.call)
    found: dict[str, list[Said]] = {}
    with kept(model):
        for inputs, _ in itertools.islice(data, MOST_BATCHES):
            for name, calls in run(inputs).by_layer.items():
                found.setdefault(name, []).append(calls[0])
    return found


def _traced(model: Any, norm: Norm, inputs: Any) -> Trace | None:
    """Trace a layer in inference; None where its values cannot be seen."""
    try:
        return trace(model, inputs, layer=norm.name, training=False)
    except ValueError as error:
        # What `trace` says against a layer; all else is a fault.
        if not str(error).startswith("trace: "):
            raise
        return None


def _layer(norm: Norm, heard: list[Said], found: Trace | None) -> dict[str, Any] | None:
    if found is None:
        return None
    pools = Pools(norm.channels, float(norm.layer.epsilon))
    for said in heard:
        pools.add([said])
    pool = pools.settle(with_odd=True).together
    axis = norm.layer.axis
    some = slice(0, MOST_CHANNELS)
    parameters = {
        "gamma": np.ones(norm.channels) if norm.gamma is None else norm.gamma,
        "beta": np.zeros(norm.channels) if norm.beta is None else norm.beta,
        "mean": norm.mean,
        "variance": norm.variance,
    }
    return {
        "name": norm.name,
        "by": _maker(norm.layer),
        "channels": min(norm.channels, MOST_CHANNELS),
        "all": norm.channels,
        "momentum": norm.momentum,
        "epsilon": float(norm.layer.epsilon),
        **{name: _exact(value[some]) for name, value in parameters.items()},
        "x": _exact(_rows(found["x"].value, axis)),
        "y": _exact(_rows(found["layer_output"].value, axis)),
        "batches": [
            {
                "count": int(np.max(said.count)),
                "mean": _exact(said.mean[some]),
                "variance": _exact(said.variance[some]),
            }
            for said in heard
        ],
        "look": {
            "density": looks.density(found["x_hat"].value),
            **looks.fit(
                (norm.mean, norm.variance),
                (pool.mean, pool.variance),
                float(norm.layer.epsilon),
            ),
        },
    }


def _maker(layer: Any) -> str:
    """Return who computes what a layer gives, as the page names them."""
    kind = type(layer)
    if kind is BatchNormalization:
        return f"our BatchNormalization {__version__}"
    if kind is keras.layers.BatchNormalization:
        return f"Keras {keras.__version__}"
    # Its own call may do anything.
    return f"{kind.__name__} on Keras {keras.__version__}"


def _rows(value: np.ndarray, axis: int) -> np.ndarray:
    """Return some rows of a layer's values, a column for each of the first channels.

    Of images and the like, places that lie apart: neighbours are much alike.
    """
    rows = np.moveaxis(value, axis, -1).reshape(-1, value.shape[axis])
    step = max(len(rows) // _ROWS, 1) if value.ndim > 2 else 1
    return rows[::step][:_ROWS, :_COLUMNS]


def _exact(values: Iterable[Any]) -> list[Any]:
    """Return float32 numbers by the fewest digits that name them; None for what is no number."""
    return [
        _exact(value)
        if np.ndim(value)
        else float(str(np.float32(value)))
        if np.isfinite(value)
        else None
        for value in values
    ]

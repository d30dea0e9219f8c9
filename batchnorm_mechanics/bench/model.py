"""`bnm bench model`: steps of whole models, as Keras builds them and after `accelerate`."""

import gc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from batchnorm_mechanics.bench.record import Comparison
from batchnorm_mechanics.bench.timing import Job, interleave
from batchnorm_mechanics.bench.without_batch_norm import without_batch_norm
from batchnorm_mechanics.layers.accelerate import accelerate
from batchnorm_mechanics.studies.models import build
from batchnorm_mechanics.studies.registry import STUDIES

Report = Callable[[str], None]

OURS, KERAS, WITHOUT = "accelerated", "Keras", "no batch norm"
TRAIN, PREDICT = "training step", "prediction step"
_CLASSES = 10
_STUDY = "keras-916"
# Of the largest logit, or of the loss: rounding errors grow through fifty layers.
_TOLERANCE = 1e-2


@dataclass(frozen=True)
class Case:
    """A model to time.

    Attributes:
        name: as tables show it.
        make: returns it compiled, with new random weights.
        inputs: shape of a batch.
        one_hot: whether labels are one-hot rows instead of numbers.
        steps: how many steps a sample takes.
    """

    name: str
    make: Callable[[], keras.Model]
    inputs: tuple[int, ...]
    one_hot: bool = False
    steps: int = 1


def _application(kind: Callable[..., Any]) -> Callable[[], keras.Model]:
    def make() -> keras.Model:
        model = kind(
            weights=None, input_shape=(96, 96, 3), classes=_CLASSES, classifier_activation=None
        )
        model.compile(
            optimizer=keras.optimizers.SGD(1e-3),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
        return model

    return make


def _study() -> keras.Model:
    return build(STUDIES[_STUDY].settings, pixels=784, seed=100)


CASES = (
    Case("ResNet-50, 32 of 96x96", _application(keras.applications.ResNet50), (32, 96, 96, 3)),
    Case("MobileNetV2, 32 of 96x96", _application(keras.applications.MobileNetV2), (32, 96, 96, 3)),
    Case("study's network, 60 of 784", _study, (60, 784), one_hot=True, steps=50),
)
QUICK_CASES = CASES[-1:]


def compare_models(
    cases: tuple[Case, ...], *, repeats: int, report: Report
) -> Iterator[Comparison]:
    """Time the steps of models, with Keras's layers, accelerated, and without batch norm.

    The first two models of a case begin with the same weights. If the first training step's loss or
    the predictions differ by more than rounding, the accelerated one is refused. The third computes
    something else: its time is the comparison's floor.

    Args:
        cases: the models.
        repeats: samples of each.
        report: told what is being done.

    Yields:
        For each case a comparison of `train_on_batch` and one of `predict_on_batch`.
    """
    for case in cases:
        report(f"model {case.name}: compiling and checking")
        keras.utils.set_random_seed(0)
        theirs, ours = case.make(), case.make()
        ours.set_weights(theirs.get_weights())
        count = accelerate(ours).count
        rng = np.random.default_rng(0)
        x = rng.standard_normal(case.inputs, np.float32)
        labels = rng.integers(0, _CLASSES, len(x))
        y = np.eye(_CLASSES, dtype=np.float32)[labels] if case.one_hot else labels
        refused = {}
        wrong = disagreement(theirs, ours, x, y)
        if wrong is not None:
            refused[OURS] = wrong
        report(f"model {case.name}: timing, {repeats} repeats")
        models = {OURS: ours, KERAS: theirs, WITHOUT: without_batch_norm(theirs)}
        jobs = {
            name: {
                TRAIN: _repeated(model.train_on_batch, case.steps, x, y),
                PREDICT: _repeated(model.predict_on_batch, case.steps, x),
            }
            for name, model in models.items()
            if name not in refused
        }
        samples = interleave(jobs, repeats=repeats)
        for kind in (TRAIN, PREDICT):
            yield Comparison(
                part="model",
                case=case.name,
                measure=kind,
                ours=OURS,
                samples={name: samples[name, kind] for name in jobs if name != WITHOUT},
                how=f"{case.steps} calls from Python a sample; {count} layers accelerated",
                floor=samples[WITHOUT, kind],
                limit=WITHOUT,
                refused=refused,
            )
        del theirs, ours, models, jobs
        keras.backend.clear_session()
        gc.collect()


def disagreement(first: keras.Model, second: keras.Model, x: Any, y: Any) -> str | None:
    """Say how two models of the same weights differ in a prediction and a training step.

    Args:
        first: what is right.
        second: what is compared with it.
        x: a batch of inputs.
        y: its labels.

    Returns:
        What differs, in words; None if nothing does. Both models have taken a training step.
    """
    for what, results in (
        ("predictions", [model.predict_on_batch(x) for model in (first, second)]),
        (
            "the first training loss",
            [_loss(model.train_on_batch(x, y)) for model in (first, second)],
        ),
        ("predictions after it", [model.predict_on_batch(x) for model in (first, second)]),
    ):
        right, found = (np.asarray(result, np.float64) for result in results)
        error, size = float(np.max(np.abs(found - right))), float(np.max(np.abs(right)))
        if not error <= _TOLERANCE * size:
            return f"{what} differ by {error:.2g}, where the largest is {size:.2g}"
    return None


def _loss(logs: Any) -> Any:
    return logs[0] if isinstance(logs, list) else logs


def _repeated(call: Callable[..., Any], steps: int, *batch: Any) -> Job:
    def run() -> None:
        for _ in range(steps):
            call(*batch)

    return Job(run, steps)

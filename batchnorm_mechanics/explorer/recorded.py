"""Write `network.json`: the notebooks' network trained, broken and repaired, for the page.

`python -m batchnorm_mechanics.explorer.recorded` trains it anew, with and without batch norm, which
takes some minutes; `--seed` gives another start.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from batchnorm_mechanics._tensorflow import import_tensorflow_quietly

import_tensorflow_quietly()

import keras  # noqa: E402 - TensorFlow speaks while it is imported, unless that is done quietly
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

from batchnorm_mechanics._io.files import write_atomically  # noqa: E402
from batchnorm_mechanics.doctor.calls import Runner  # noqa: E402
from batchnorm_mechanics.doctor.diagnose import diagnose  # noqa: E402
from batchnorm_mechanics.doctor.repair import repair  # noqa: E402
from batchnorm_mechanics.explorer import looks  # noqa: E402
from batchnorm_mechanics.explorer.network import PATH  # noqa: E402
from batchnorm_mechanics.explorer.told import told  # noqa: E402
from batchnorm_mechanics.models.norms import norms_in  # noqa: E402
from batchnorm_mechanics.studies import dataset  # noqa: E402
from batchnorm_mechanics.studies.registry import Settings  # noqa: E402
from batchnorm_mechanics.studies.train import build  # noqa: E402

_SETTINGS = Settings("keras-layer")
_BACKWARDS = 0.01


@dataclass(frozen=True)
class Plan:
    """How much is trained and looked at; the defaults are what the page has.

    Attributes:
        seed: of the kernels and of the order of the images.
        steps: at which to look; the last one ends the training.
        rows: how many images to read at most.
        shown: how many training images the statistics are compared on, and the doctor is given.
        tested: how many test images say how good it is along the training.
        asked: how many of them are given to a broken network, one at a time.
        failures: which are tried; None for all.
    """

    seed: int = 0
    steps: tuple[int, ...] = (
        *(0, 1, 2, 5, 10, 20, 35, 50, 75, 100, 140, 200, 280, 390, 540),
        *(740, 916, 1100, 1350, 1600, 1832),
    )
    rows: int | None = None
    shown: int = 2000
    tested: int = 2000
    asked: int = 500
    failures: tuple[str, ...] | None = None


def network(settings: Settings, seed: int) -> Any:
    """Return the notebooks' network, of Keras's own layers, compiled.

    Args:
        settings: of the study; "keras-layer" or "none" for its statistics.
        seed: of the kernels.
    """
    keras.utils.set_random_seed(seed)
    built = build(settings, pixels=784, seed=seed)
    model = keras.Model(built.input, built.output, name="network")
    model.compile(
        optimizer=keras.optimizers.Adam(settings.learning_rate),
        loss=keras.losses.CategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def batches(rows: int, plan: Plan) -> Iterator[np.ndarray]:
    """Yield the numbers of the images of each training step, the same for every network."""
    rng = np.random.default_rng(plan.seed)
    left = plan.steps[-1]
    while left > 0:
        order = rng.permutation(rows)
        for start in range(0, rows - _SETTINGS.batch_size + 1, _SETTINGS.batch_size):
            if left > 0:
                yield order[start : start + _SETTINGS.batch_size]
                left -= 1


class Watch:
    """Look at a network without changing it.

    Args:
        model: any `network`.
        arrays: of the study.
        plan: how much is looked at.
    """

    def __init__(self, model: Any, arrays: dataset.Arrays, plan: Plan) -> None:
        self._norms = norms_in(model)
        self._shown = arrays.x_train[: plan.shown]
        self._x = arrays.x_test[: plan.tested]
        self._labels = arrays.y_test[: plan.tested].argmax(axis=1)
        # What enters the activation.
        before = [layer.input for layer in model.layers if isinstance(layer, _ACTIVATION)]
        self._inside = keras.Model(model.input, [*before, model.output])
        names = [norm.name for norm in self._norms]
        self._by_batch = Runner(model, self._norms, by_batch=names)

    def __call__(self) -> dict[str, Any]:
        """Return what there is to see now: accuracies in percent, and each layer."""
        *inside, logits = self._inside(self._x, training=False)
        seen: dict[str, Any] = {"inference": self._accuracy(logits)}
        layers = [{"density": looks.density(values)} for values in inside]
        if self._norms:
            size = _SETTINGS.batch_size
            parts = [self._x[start : start + size] for start in range(0, len(self._x), size)]
            outputs = [self._by_batch(part).outputs for part in parts]
            seen["training"] = self._accuracy(np.concatenate(outputs))
            for layer, fit in zip(layers, self.fits(self._shown), strict=True):
                layer.update(fit)
        return {**seen, "layers": layers}

    def fits(self, x: np.ndarray) -> list[dict[str, Any]]:
        """Return how each batch norm layer's statistics fit those in training on these images."""
        heard = self._by_batch(x).by_layer
        return [
            looks.fit(
                (norm.mean, norm.variance),
                (heard[norm.name][0].mean, heard[norm.name][0].variance),
                float(norm.layer.epsilon),
            )
            for norm in self._norms
        ]

    def one_at_a_time(self, x: np.ndarray, labels: np.ndarray) -> tuple[float, list[list[int]]]:
        """Return accuracy in percent and densities, as where a model is called on one image.

        A flag that is baked into the graph is obeyed then, and moves the statistics.
        """
        found = [self._inside(x[row : row + 1]) for row in range(len(x))]
        *inside, logits = (np.concatenate(part) for part in zip(*found, strict=True))
        right = float(np.mean(np.argmax(logits, axis=1) == labels))
        return 100 * right, [looks.density(values) for values in inside]

    def _accuracy(self, logits: Any) -> float:
        return round(100 * float(np.mean(np.argmax(logits, axis=1) == self._labels)), 2)


_ACTIVATION = keras.layers.Activation


def trained(
    model: Any, arrays: dataset.Arrays, plan: Plan, say: Callable[[str], None] = lambda _: None
) -> list[dict[str, Any]]:
    """Train a network, and return what was seen at each of the plan's steps."""
    watch = Watch(model, arrays, plan)
    seen = [watch()] if 0 in plan.steps else []
    for step, rows in enumerate(batches(len(arrays.x_train), plan), start=1):
        model.train_on_batch(arrays.x_train[rows], arrays.y_train[rows])
        if step in plan.steps:
            seen.append(watch())
            say(f"step {step}: {seen[-1]['inference']} % in inference")
    return seen


@dataclass(frozen=True)
class Failure:
    """One way in which batch norm fails.

    Attributes:
        name: by which the page knows it, and tells what happened.
        break_: takes the trained network and returns it broken.
        view: of the images that it then gets, pixels from 0 to 255.
        only: what repair is asked for, beside what it does unasked.
    """

    name: str
    break_: Callable[[Any], Any] = lambda model: model
    view: Callable[[np.ndarray], np.ndarray] | None = None
    only: tuple[str, ...] = ()


def _norm_layers(model: Any) -> list[Any]:
    return [norm.layer for norm in norms_in(model)]


def _never_updated(model: Any) -> Any:
    for layer in _norm_layers(model):
        layer.moving_mean.assign(np.zeros(layer.moving_mean.shape))
        layer.moving_variance.assign(np.ones(layer.moving_variance.shape))
    return model


def _baked(model: Any) -> Any:
    broken = network(replace(_SETTINGS, baked_training=(False, True, True)), seed=0)
    broken.set_weights(model.get_weights())
    return broken


def _one_nan(model: Any) -> Any:
    mean = _norm_layers(model)[1].moving_mean
    values = mean.numpy()
    values[16] = np.nan
    mean.assign(values)
    return model


FAILURES = (
    # Trained with it: see `record`.
    Failure("reversed"),
    Failure("never", _never_updated),
    Failure("baked", _baked),
    Failure("nan", _one_nan),
    # Half the contrast, on a grey ground.
    Failure("domain", view=lambda pixels: 0.5 * pixels + 60, only=("BN203",)),
)


def failed(
    failure: Failure, whole: Any, digits: dataset.Digits, arrays: dataset.Arrays, plan: Plan
) -> dict[str, Any]:
    """Break a network, have it diagnosed and repaired, and return what was seen.

    Args:
        failure: what happens to it.
        whole: the trained network, which stays as it is.
        digits: for images of another domain.
        arrays: of the study.
        plan: how much is looked at.
    """

    def broken() -> Any:
        copy = network(_SETTINGS, plan.seed)
        copy.set_weights(whole.get_weights())
        for layer, own in zip(_norm_layers(copy), _norm_layers(whole), strict=True):
            layer.momentum = own.momentum
        return failure.break_(copy)

    x, labels = arrays.x_train[: plan.shown], arrays.y_train[: plan.shown].argmax(axis=1)
    asked, right = arrays.x_test[: plan.asked], arrays.y_test[: plan.asked].argmax(axis=1)
    if failure.view is not None:
        scaler = dataset.fit_scaler(digits.x_train[: plan.rows])
        x, asked = (
            np.asarray(scaler.transform(failure.view(images.reshape(len(images), -1))), np.float32)
            for images in (digits.x_train[: plan.shown], digits.x_test[: plan.asked])
        )
        labels = digits.y_train[: plan.shown].astype(np.int64)

    def seen(model: Any) -> dict[str, Any]:
        watch = Watch(model, arrays, plan)
        fits = watch.fits(x)
        accuracy, densities = watch.one_at_a_time(asked, right)
        layers = [{"density": density, **fit} for density, fit in zip(densities, fits, strict=True)]
        return {"accuracy": round(accuracy, 2), "layers": layers}

    # To be asked moves the statistics of a baked flag: the doctor gets another one.
    before = seen(broken())
    size = _SETTINGS.batch_size
    done = repair(broken(), x, labels=labels, batch_size=size, only=failure.only)
    after = seen(done.model)
    return {
        "name": failure.name,
        "broken": {**before, "told": told(done.before), "text": done.before.text()},
        "repaired": {
            **after,
            "told": told(diagnose(done.model, x, labels=labels, batch_size=size)),
        },
        "repair": str(done),
        "steps": [str(step) for step in done.steps],
        "only": list(failure.only),
    }


def record(plan: Plan, say: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
    """Train, break and repair, and return what the page shows of it.

    Args:
        plan: how much of it.
        say: takes a sentence at each stage.
    """
    settings = replace(_SETTINGS, rows=plan.rows)
    digits = dataset.load(minimum_rows=dataset.rows_needed(settings))
    arrays = dataset.prepare(digits, settings)
    say("with batch norm")
    whole = network(_SETTINGS, plan.seed)
    training = {"with": trained(whole, arrays, plan, say)}
    say("without")
    without = network(replace(_SETTINGS, statistics="none"), plan.seed)
    training["without"] = trained(without, arrays, plan, say)
    wanted = [one for one in FAILURES if plan.failures is None or one.name in plan.failures]
    failures = []
    for failure in wanted:
        say(failure.name)
        start = whole
        if failure.name == "reversed":
            # The weights come out the same: no moving average takes part in training.
            start = network(_SETTINGS, plan.seed)
            for layer in _norm_layers(start):
                layer.momentum = _BACKWARDS
            trained(start, arrays, replace(plan, steps=plan.steps[-1:]))
        failures.append(failed(failure, start, digits, arrays, plan))
    accuracy, densities = Watch(whole, arrays, plan).one_at_a_time(
        arrays.x_test[: plan.asked], arrays.y_test[: plan.asked].argmax(axis=1)
    )
    return {
        "keras": keras.__version__,
        "tensorflow": tf.__version__,
        "seed": plan.seed,
        "images": len(arrays.x_train),
        "tested": len(arrays.x_test[: plan.tested]),
        "asked": len(arrays.x_test[: plan.asked]),
        "bins": {"low": looks.LOW, "high": looks.HIGH},
        "steps": list(plan.steps),
        "training": training,
        "whole": {"accuracy": round(accuracy, 2), "densities": densities},
        "failures": failures,
    }


def text(run: dict[str, Any]) -> str:
    """Return a run as the file that the package ships."""
    return json.dumps(run, ensure_ascii=False, separators=(",", ":"), allow_nan=False) + "\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    tf.config.experimental.enable_op_determinism()
    write_atomically(PATH, text(record(Plan(seed=parser.parse_args().seed), print)))

"""What a study is: frozen data from which everything else follows.

Settings hold every choice that can change a result, and nothing else. Two runs with equal settings,
data and seed give the same figures.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

# How a run is trained: by `fit_compiled`, or by Keras's `fit`.
Engine = Literal["compiled", "fit"]
ENGINES: tuple[Engine, ...] = ("compiled", "fit")
DEFAULT_ENGINE: Engine = "compiled"

Statistics = Literal["keras-layer", "moving-average", "reversed", "algorithm-2", "debiased", "none"]


@dataclass(frozen=True)
class Settings:
    """All choices of a study; the defaults are what the studies share.

    Attributes:
        statistics: what normalizes, and what inference uses. `keras-layer`: Keras's own layer,
            momentum 0.99. Ours with: `moving-average`, the same average; `reversed`, Keras's
            momentum 0.01, started at zero; `algorithm-2`, the paper's average of batches;
            `debiased`, the corrected average; `none`: no batch norm at all.
        reset_each_epoch: whether the running statistics start anew with each epoch.
        baked_training: for each hidden layer, whether its batch norm was called with
            `training=True` while the graph was built.
        hidden_units: width of each hidden layer.
        activation: of the hidden layers.
        kernel: initializer of the kernels; `orthogonal` with gain `kernel_scale`, or `gaussian`
            with that standard deviation.
        kernel_scale: see `kernel`.
        epsilon: of batch norm.
        inputs: `standardized` by the training rows' mean and variance, or `binary`, black or white.
        optimizer: Keras's name of it.
        learning_rate: of the optimizer.
        batch_size: images a step; a last smaller batch of an epoch is dropped.
        steps_per_epoch: None for all of the training rows.
        stream: `restart` shuffles anew with each epoch, wherever the last one ended; `continue`
            goes on through the data.
        epochs: passes of `steps_per_epoch` steps.
        validation_batches: how many batches validate; None for all.
        validation_fraction: share of the training file that validates.
        split_seed: shuffles the training file before it is split; the same for every run.
        track_inputs: whether to follow test accuracy, and the percentiles of one input of the last
            hidden activation, along training.
        rows: how many rows of the training file to use at most, None for all; and of the test file
            a sixth as many.
    """

    statistics: Statistics
    reset_each_epoch: bool = False
    baked_training: tuple[bool, ...] = (False, False, False)
    hidden_units: tuple[int, ...] = (100, 100, 100)
    activation: str = "tanh"
    kernel: Literal["orthogonal", "gaussian"] = "orthogonal"
    kernel_scale: float = 1.0
    epsilon: float = 1e-3
    inputs: Literal["standardized", "binary"] = "standardized"
    optimizer: str = "adam"
    learning_rate: float = 1e-3
    batch_size: int = 60
    steps_per_epoch: int | None = None
    stream: Literal["restart", "continue"] = "restart"
    epochs: int = 10
    validation_batches: int | None = None
    validation_fraction: float = 1 / 12
    split_seed: int = 100
    track_inputs: bool = False
    rows: int | None = None


def network(settings: Settings) -> Settings:
    """Return the settings without those that leave the network and its compiled functions alone.

    Runs for which this is equal can share a model that is built and compiled once.

    Example:
        >>> a = Settings("keras-layer")
        >>> b = Settings("keras-layer", steps_per_epoch=100, epochs=2)
        >>> network(a) == network(b), network(a) == network(Settings("none"))
        (True, False)
    """
    kept = {
        field.name: getattr(settings, field.name)
        for field in dataclasses.fields(Settings)
        if field.name not in _ONLY_OF_RUN
    }
    return Settings(**kept)


# Data, length, and what callbacks do.
_ONLY_OF_RUN = {
    "reset_each_epoch",
    "inputs",
    "steps_per_epoch",
    "stream",
    "epochs",
    "validation_batches",
    "validation_fraction",
    "split_seed",
    "track_inputs",
    "rows",
}


@dataclass(frozen=True)
class Published:
    """Accuracies in percent that the source published; None where it gave none."""

    train: float | None
    val: float | None
    test: float | None


@dataclass(frozen=True)
class Study:
    """A named set of settings.

    Attributes:
        name: what `bnm reproduce NAME` takes.
        title: what it is, in a few words.
        source: where the settings come from.
        settings: all of them.
        published: what the source reports, or None for our own comparisons.
    """

    name: str
    title: str
    source: str
    settings: Settings
    published: Published | None = None


@dataclass(frozen=True)
class Run:
    """One training of one study with one seed.

    Attributes:
        seed: of initialization and shuffling.
        train: accuracy of the last epoch as Keras reports it, in percent.
        val: on the validation rows after the last epoch, in percent.
        test: on the test file after the last epoch, in percent.
        seconds: from building the network to the last evaluation.
        history: one list for each thing measured along training, an entry an epoch.
    """

    seed: int
    train: float
    val: float
    test: float
    seconds: float
    history: dict[str, list[float]]

    def as_json(self) -> dict[str, Any]:
        """Return the run as `results.json` holds it."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class Factor:
    """A comparison of two studies that differ in one thing.

    Attributes:
        name: the thing.
        from_study: name of the study with the first value.
        to_study: name of the study with the second.
        from_value: the first value, in words.
        to_value: the second.
    """

    name: str
    from_study: str
    to_study: str
    from_value: str
    to_value: str

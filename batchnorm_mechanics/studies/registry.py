"""The studies: what one is, what a run of it gives, and which there are.

A study is frozen data from which everything else follows. Settings hold every choice that can
change a result, and nothing else: two runs with equal settings, data and seed give the same
figures. There are the five published runs, the comparisons, and the paper's experiment.
"""

from dataclasses import dataclass, replace
from typing import Literal

from batchnorm_mechanics._io.json import Record

Statistics = Literal["keras-layer", "moving-average", "reversed", "algorithm-2", "debiased", "none"]


@dataclass(frozen=True)
class Settings(Record):
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


def network_settings(settings: Settings) -> Settings:
    """Return the settings without those that leave the network and its compiled functions alone.

    Runs for which this is equal can share a model that is built and compiled once.

    Example:
        >>> a = Settings("keras-layer")
        >>> b = Settings("keras-layer", steps_per_epoch=100, epochs=2)
        >>> network_settings(a) == network_settings(b)
        True
        >>> network_settings(a) == network_settings(Settings("none"))
        False
    """
    default = Settings(settings.statistics)
    return replace(settings, **{name: getattr(default, name) for name in _ONLY_OF_RUN})


# Data, length, and what callbacks do.
_ONLY_OF_RUN = (
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
)


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
        settings: all of them.
        source: where the settings come from.
        published: what the source reports, or None for our own comparisons.
    """

    name: str
    title: str
    settings: Settings
    source: str = "comparison"
    published: Published | None = None


@dataclass(frozen=True)
class Run(Record):
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


_EXPERIMENTAL = "BatchNormCustom_experimental-v1"
_FINAL = "BatchNormCustom_final-v1"
_PAPER = "arXiv 1502.03167, sec. 4.1"

_KERAS = Settings(statistics="keras-layer")
_AVERAGE = Settings(statistics="moving-average")
# The source's custom layers started each epoch anew.
_REVERSED = Settings(statistics="reversed", reset_each_epoch=True)
_ALGORITHM_2 = Settings(statistics="algorithm-2", reset_each_epoch=True)

# The notebooks of the custom layers trained on `take(100)` and validated on `take(50)`.
_TAKE_100 = {"steps_per_epoch": 100, "validation_batches": 50}

# The paper gives the layers, the batch and the length; the input is "binary", the weights "small
# random Gaussians". Optimizer and learning rate it leaves open: plain descent, the same for both.
_SIGMOID = Settings(
    statistics="debiased",
    activation="sigmoid",
    kernel="gaussian",
    kernel_scale=0.1,
    inputs="binary",
    optimizer="sgd",
    learning_rate=0.1,
    steps_per_epoch=250,
    stream="continue",
    epochs=20,
    track_inputs=True,
)

STUDIES: dict[str, Study] = {
    study.name: study
    for study in (
        Study(
            "keras-916-baked",
            "Keras's layer, all 916 batches an epoch, two layers with training=True baked in",
            replace(_KERAS, baked_training=(False, True, True)),
            "BatchNorm_experimental-v1",
            Published(98.84, 97.02, 97.11),
        ),
        Study(
            "algorithm2-100-short",
            "Algorithm 2, 100 of 916 batches an epoch, 2 epochs",
            replace(_ALGORITHM_2, **_TAKE_100, epochs=2),
            _EXPERIMENTAL,
            Published(89.73, 91.50, None),
        ),
        Study(
            "reversed-100-short",
            "reversed momentum, 100 of 916 batches an epoch, 2 epochs",
            replace(_REVERSED, **_TAKE_100, epochs=2),
            _EXPERIMENTAL,
            Published(89.58, 90.67, None),
        ),
        Study(
            "algorithm2-100",
            "Algorithm 2, 100 of 916 batches an epoch",
            replace(_ALGORITHM_2, **_TAKE_100),
            _FINAL,
            Published(94.95, 94.70, 94.59),
        ),
        Study(
            "reversed-100",
            "reversed momentum, 100 of 916 batches an epoch",
            replace(_REVERSED, **_TAKE_100),
            _FINAL,
            Published(93.87, 94.17, 93.71),
        ),
        Study("keras-916", "Keras's layer, all 916 batches an epoch, no flag baked in", _KERAS),
        Study(
            "keras-100", "Keras's layer, 100 of 916 batches an epoch", replace(_KERAS, **_TAKE_100)
        ),
        Study(
            "average-916",
            "our layer with Keras's moving average, all 916 batches an epoch",
            _AVERAGE,
        ),
        Study(
            "average-100",
            "our layer with Keras's moving average, 100 of 916 batches an epoch",
            replace(_AVERAGE, **_TAKE_100),
        ),
        Study("algorithm2-916", "Algorithm 2, all 916 batches an epoch", _ALGORITHM_2),
        Study("reversed-916", "reversed momentum, all 916 batches an epoch", _REVERSED),
        Study(
            "paper-with-bn",
            "the paper's sigmoid network with batch norm",
            _SIGMOID,
            _PAPER,
        ),
        Study(
            "paper-without-bn",
            "the paper's sigmoid network without batch norm",
            replace(_SIGMOID, statistics="none"),
            _PAPER,
        ),
    )
}

BATCHES = "batches an epoch"
STATISTICS = "statistics"
LAYER = "layer"
BAKED = "baked training=True"
EPOCHS = "epochs"
NORMALIZATION = "batch norm"

# Each pair differs in one setting; a test holds them to it.
FACTORS: tuple[Factor, ...] = (
    Factor(BATCHES, "keras-100", "keras-916", "100 of 916", "all 916"),
    Factor(BATCHES, "average-100", "average-916", "100 of 916", "all 916"),
    Factor(BATCHES, "algorithm2-100", "algorithm2-916", "100 of 916", "all 916"),
    Factor(BATCHES, "reversed-100", "reversed-916", "100 of 916", "all 916"),
    Factor(STATISTICS, "average-100", "algorithm2-100", "moving average", "Algorithm 2"),
    Factor(STATISTICS, "average-100", "reversed-100", "moving average", "reversed momentum"),
    Factor(STATISTICS, "average-916", "algorithm2-916", "moving average", "Algorithm 2"),
    Factor(STATISTICS, "average-916", "reversed-916", "moving average", "reversed momentum"),
    Factor(LAYER, "keras-100", "average-100", "Keras's", "ours"),
    Factor(LAYER, "keras-916", "average-916", "Keras's", "ours"),
    Factor(BAKED, "keras-916", "keras-916-baked", "no", "2nd and 3rd layer"),
    Factor(EPOCHS, "algorithm2-100-short", "algorithm2-100", "2", "10"),
    Factor(EPOCHS, "reversed-100-short", "reversed-100", "2", "10"),
    Factor(NORMALIZATION, "paper-without-bn", "paper-with-bn", "without", "with"),
)


def with_paper_steps(study: Study, steps: int) -> Study:
    """Return the paper's experiment with another length; other studies stay as they are.

    Accuracy and percentiles are taken 20 times along training, or each step if it is shorter.
    """
    if not study.settings.track_inputs:
        return study
    checkpoints = min(20, steps)
    return replace(
        study,
        settings=replace(
            study.settings, steps_per_epoch=round(steps / checkpoints), epochs=checkpoints
        ),
    )


def quick(study: Study) -> Study:
    """Return the study on a tenth of the data, with a tenth of the steps and at most 3 epochs.

    It shows that everything runs; its accuracies say nothing of the published ones.
    """
    steps = study.settings.steps_per_epoch
    return replace(
        study,
        settings=replace(
            study.settings,
            rows=6000,
            steps_per_epoch=None if steps is None else max(1, steps // 10),
            epochs=min(study.settings.epochs, 3),
        ),
    )

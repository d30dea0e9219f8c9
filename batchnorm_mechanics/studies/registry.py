"""The studies: the five published runs, the comparisons, and the paper's experiment."""

from dataclasses import replace

from batchnorm_mechanics.studies.config import Factor, Published, Settings, Study

_EXPERIMENTAL = "BatchNormCustom_experimental-v1"
_FINAL = "BatchNormCustom_final-v1"
_OURS = "comparison"
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
            "Keras's layer, 916 steps an epoch, two layers with training=True baked in",
            "BatchNorm_experimental-v1",
            replace(_KERAS, baked_training=(False, True, True)),
            Published(98.84, 97.02, 97.11),
        ),
        Study(
            "algorithm2-100-short",
            "Algorithm 2, 100 steps an epoch, 2 epochs",
            _EXPERIMENTAL,
            replace(_ALGORITHM_2, **_TAKE_100, epochs=2),
            Published(89.73, 91.50, None),
        ),
        Study(
            "reversed-100-short",
            "momentum reversed, 100 steps an epoch, 2 epochs",
            _EXPERIMENTAL,
            replace(_REVERSED, **_TAKE_100, epochs=2),
            Published(89.58, 90.67, None),
        ),
        Study(
            "algorithm2-100",
            "Algorithm 2, 100 steps an epoch",
            _FINAL,
            replace(_ALGORITHM_2, **_TAKE_100),
            Published(94.95, 94.70, 94.59),
        ),
        Study(
            "reversed-100",
            "momentum reversed, 100 steps an epoch",
            _FINAL,
            replace(_REVERSED, **_TAKE_100),
            Published(93.87, 94.17, 93.71),
        ),
        Study(
            "keras-916",
            "Keras's layer, 916 steps an epoch, no flag baked in",
            _OURS,
            _KERAS,
        ),
        Study(
            "keras-100",
            "Keras's layer, 100 steps an epoch",
            _OURS,
            replace(_KERAS, **_TAKE_100),
        ),
        Study(
            "average-916",
            "our layer with Keras's moving average, 916 steps an epoch",
            _OURS,
            _AVERAGE,
        ),
        Study(
            "average-100",
            "our layer with Keras's moving average, 100 steps an epoch",
            _OURS,
            replace(_AVERAGE, **_TAKE_100),
        ),
        Study(
            "algorithm2-916",
            "Algorithm 2, 916 steps an epoch",
            _OURS,
            _ALGORITHM_2,
        ),
        Study(
            "reversed-916",
            "momentum reversed, 916 steps an epoch",
            _OURS,
            _REVERSED,
        ),
        Study(
            "paper-with-bn",
            "the paper's sigmoid network with batch norm",
            _PAPER,
            _SIGMOID,
        ),
        Study(
            "paper-without-bn",
            "the paper's sigmoid network without batch norm",
            _PAPER,
            replace(_SIGMOID, statistics="none"),
        ),
    )
}

STEPS = "steps an epoch"
STATISTICS = "statistics"
LAYER = "layer"
BAKED = "baked training=True"
EPOCHS = "epochs"
NORMALIZATION = "batch norm"

# Each pair differs in one setting; a test holds them to it.
FACTORS: tuple[Factor, ...] = (
    Factor(STEPS, "keras-100", "keras-916", "100", "916"),
    Factor(STEPS, "average-100", "average-916", "100", "916"),
    Factor(STEPS, "algorithm2-100", "algorithm2-916", "100", "916"),
    Factor(STEPS, "reversed-100", "reversed-916", "100", "916"),
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

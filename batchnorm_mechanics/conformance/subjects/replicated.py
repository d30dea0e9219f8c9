"""A Keras layer whose batches are shared by replicas, as a strategy of tf.distribute has it."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Self

import keras
import numpy as np
import tensorflow as tf

from batchnorm_mechanics._exceptions import InputError
from batchnorm_mechanics.conformance.shares import Shares
from batchnorm_mechanics.conformance.subject import Session, Setting, Statistics, Subject
from batchnorm_mechanics.conformance.subjects.keras_layer import KerasLayer, LayerSession
from batchnorm_mechanics.conformance.subjects.layer_recipe import MEAN, VARIANCE
from batchnorm_mechanics.distribute.local import eager_steps, replicas_on_the_processor
from batchnorm_mechanics.distribute.replicas import on_each_replica


def replicated(subject: Subject, replicas: int) -> Subject:
    """Return a subject to be asked as one whose batches are shared.

    Args:
        subject: a Keras layer.
        replicas: how many share a batch; with 1 the subject stays as it is.

    Raises:
        InputError: the subject knows nothing of replicas.
    """
    if replicas == 1:
        return subject
    if not isinstance(subject, KerasLayer):
        raise InputError(
            "conform: with `replicas`, `subject` must be a Keras layer, for a strategy of "
            f"tf.distribute knows no others. Received: subject={subject.name}, "
            f"replicas={replicas}. Leave out `replicas`."
        )
    return Replicated(subject, replicas)


class Replicated(Subject):
    """A Keras layer under a strategy of several replicas, each with its part of a batch.

    What it infers is inferred by what is saved: by the first replica's statistics. Its conventions,
    which no shares are asked for, are those of one replica.

    Args:
        subject: the layer.
        replicas: how many share a batch.

    Raises:
        InputError: there are too few devices, or the layer is one that XLA compiles.
    """

    def __init__(self, subject: KerasLayer, replicas: int) -> None:
        if subject.way == "compiled":
            raise InputError(
                "conform: with `replicas`, `subject` must not be compiled by XLA, within which "
                f"replicas cannot wait for one another. Received: subject={subject.name}. Leave "
                "out `replicas`, or choose bnm.layer-graph."
            )
        self._subject = subject
        self._strategy = replicas_on_the_processor(replicas)
        self.name, self.source, self.taken_as = subject.name, subject.source, subject.taken_as
        self.abilities, self.declared_momentum = subject.abilities, subject.declared_momentum
        self.takes_epsilon, self.lacks, self.needs = (
            subject.takes_epsilon,
            subject.lacks,
            subject.needs,
        )
        self.synchronized = subject.synchronized
        which = "synchronized" if self.synchronized else "not synchronized"
        self.description = f"{subject.description}, on {replicas} replicas, {which}"

    def refusal(self, setting: Setting) -> str | None:
        """Return what the layer says, or that samples of their own cannot be shared."""
        if 0 in (setting.kept or ()):
            return "replicas share the batch axis, and it keeps that"
        return self._subject.refusal(setting)

    def open(self, setting: Setting) -> Session:
        """Return a session whose layer was made in the strategy's scope; the layer's own else."""
        shares = setting.shares
        if shares is None:
            return self._subject.open(setting)
        with self._strategy.scope():
            session = self._subject.open(replace(setting, shares=None))
        return _ReplicatedSession.of(session, shares, self._strategy)


class _ReplicatedSession(LayerSession):
    """A layer, and the replicas that train it together."""

    _shares: Shares
    _strategy: tf.distribute.MirroredStrategy

    @classmethod
    def of(
        cls, session: LayerSession, shares: Shares, strategy: tf.distribute.MirroredStrategy
    ) -> Self:
        """Return a session with the layer of another."""
        of_replicas = cls(session.layer, session.setting, session.way)
        of_replicas._shares, of_replicas._strategy = shares, strategy
        return of_replicas

    def _run(self, name: str, function: Callable[..., Any], *arrays: np.ndarray | None) -> Any:
        """Run a function of training on each replica's part, and put together what they give."""
        if name not in ("training=True", "gradients"):
            return super()._run(name, function, *arrays)
        parts = [self._shares.split(array) for array in arrays if array is not None]

        def step() -> Any:
            each = [self._spread(part) for part in parts]
            return self._strategy.run(function, args=each)

        if self.way == "eager":
            with eager_steps():
                given = step()
        else:
            given = tf.function(step, autograph=False)()
        if name == "gradients":
            dx, *of_weights = (self._strategy.experimental_local_results(one) for one in given)
            return [tf.concat(dx, 0), *map(tf.add_n, of_weights)]
        local = self._strategy.experimental_local_results(given)
        # What is no tensor is said to be none by who asked.
        return tf.concat(local, 0) if all(map(tf.is_tensor, local)) else local[0]

    def _spread(self, parts: list[np.ndarray]) -> Any:
        return self._strategy.experimental_distribute_values_from_function(
            lambda context: tf.constant(parts[context.replica_id_in_sync_group])
        )

    def statistics(self) -> Statistics:
        """Return those of the first replica, which are the ones that are saved."""
        return self._each()[0]

    def statistics_elsewhere(self) -> list[Statistics]:
        """Return those of the others."""
        return self._each()[1:]

    def _each(self) -> list[Statistics]:
        held = [
            [self._of_weight(one) for one in on_each_replica(_variable(self._weights[role]))]
            for role in (MEAN, VARIANCE)
        ]
        return [Statistics(*pair) for pair in zip(*held, strict=True)]

    def reload(self) -> Self:
        """Save and load as of one replica, the loading in the strategy's scope."""
        with self._strategy.scope():
            return type(self).of(super().reload(), self._shares, self._strategy)


def _variable(weight: Any) -> Any:
    """Return TensorFlow's variable, of which Keras's is a wrapper."""
    return weight.value if isinstance(weight, keras.Variable) else weight

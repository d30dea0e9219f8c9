"""Replicas of tf.distribute: what each has of a batch, and the batch's moments on all of them."""

from batchnorm_mechanics.distribute.replicas import Replicas, normalize_batch, replicas_here

__all__ = ["Replicas", "normalize_batch", "replicas_here"]

"""Work that is shared: by replicas of tf.distribute, and by actors of Ray.

A module each, which is imported by its name: the second needs no TensorFlow.
"""

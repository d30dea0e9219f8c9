"""BatchNorm Mechanics: how batch normalization works, proved, repaired and fast.

The public names are listed in `__init__.pyi`. TensorFlow is imported when one is first used.
"""

import lazy_loader

from batchnorm_mechanics._tensorflow import import_tensorflow_quietly, import_with_keras
from batchnorm_mechanics._version import __version__  # noqa: F401 - public

_find, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> object:
    if name in __all__:
        import_tensorflow_quietly()
    return _find(name)


import_with_keras("batchnorm_mechanics.layers")

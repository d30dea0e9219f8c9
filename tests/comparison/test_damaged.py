"""Files of other formats, damaged at random: compared, or refused in a sentence."""

import random
from pathlib import Path

import compared_networks as networks
import pytest

from batchnorm_mechanics._exceptions import InputError
from batchnorm_mechanics.comparison.compare import compare

pytestmark = pytest.mark.thorough
RUNTIMES = {".onnx": "onnxruntime", ".tflite": "ai_edge_litert", ".xml": "openvino"}
FORMATS = {".tflite": "litert", ".xml": "openvino"}
FILES = 200


def damaged(content, chance):
    """Return bytes of which some are others, left out or put in, most of them near the start."""
    found = bytearray(content)
    for _ in range(chance.choice([1, 1, 2, 4, 16])):
        near = len(found) if chance.random() < 0.5 else min(len(found), 3_000)
        place, kind = chance.randrange(near), chance.random()
        if kind < 0.6:
            found[place] = chance.choice([0, 1, 127, 128, 255, chance.randrange(256)])
        elif kind < 0.8:
            del found[place : place + chance.randrange(1, 9)]
        else:
            found[place:place] = chance.randbytes(chance.randrange(1, 5))
    return bytes(found)


@pytest.mark.filterwarnings("ignore")  # of the runtimes and exporters
@pytest.mark.parametrize("suffix", RUNTIMES)
def test_a_damaged_file_is_compared_or_refused(network, tmp_path, suffix):
    pytest.importorskip(RUNTIMES[suffix])
    model, data = network("separable")
    sound = tmp_path / f"sound{suffix}"
    if suffix in FORMATS:
        model.export(str(sound), format=FORMATS[suffix], verbose=False)
    else:
        sound.write_bytes(
            (Path(networks.__file__).parent / "comparison/separable.onnx").read_bytes()
        )
    content, refused = sound.read_bytes(), 0
    for seed in range(FILES):
        # Beside its weights, where those are another file.
        sound.write_bytes(damaged(content, random.Random(seed)))
        try:
            said = str(compare(model, sound, data))
        except InputError as error:
            refused, said = refused + 1, str(error)
        assert said.startswith(("compare: `b` must", "Both", "It cannot be told"))
    assert FILES / 2 < refused < FILES

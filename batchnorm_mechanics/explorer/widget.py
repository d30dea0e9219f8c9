"""The explorer as a widget: its state is traits, which Python and the page both read and write.

It needs anywidget, the extra `notebook`: `notebook.py` imports this module when one is made.
"""

from pathlib import Path
from typing import Any

import anywidget
import numpy as np
import traitlets

from batchnorm_mechanics._io.html import family_style, templates
from batchnorm_mechanics.core import forward, infer
from batchnorm_mechanics.explorer import page
from batchnorm_mechanics.explorer.network import stored_run

_TEMPLATES = Path(__file__).parent / "templates"
# As the page has them: its grids are walked, not searched.
_MOST = (16, 8)
_X = ((1.0, 2.0, 3.0), (4.0, 5.0, 6.0))
# What a channel has that nothing was said of: the first example of the notebooks, and Keras's
# initial moving statistics.
_FILL = {"gamma": 2.0, "beta": 1.0, "moving_mean": 0.0, "moving_variance": 1.0}


class _Array(traitlets.TraitType):
    """A float32 array of so many axes; JSON has no NaN, so numbers that are not finite are text."""

    info_text = "an array of numbers"

    def __init__(self, rank: int, *, least: float | None = None) -> None:
        super().__init__()
        self._rank, self._least = rank, least
        self.tag(sync=True, to_json=self._to_json, from_json=self._from_json)

    def make_dynamic_default(self) -> np.ndarray:
        return np.zeros((1,) * self._rank, np.float32)

    def validate(self, obj: Any, value: Any) -> np.ndarray:
        del obj
        array = np.array(value, np.float32)
        largest = _MOST[-self._rank :]
        if array.ndim != self._rank or not all(
            1 <= size <= most for size, most in zip(array.shape, largest, strict=True)
        ):
            sizes = " x ".join(f"1 to {most}" for most in largest)
            raise traitlets.TraitError(
                f"Explorer: `{self.name}` must have the shape {sizes}. Received: "
                f"{self.name}.shape={array.shape}. Take a part of it: the page shows each number."
            )
        if self._least is not None and not np.all(array >= self._least):
            raise traitlets.TraitError(
                f"Explorer: `{self.name}` must be {self._least:g} or more. Received: "
                f"{self.name}={array.tolist()!r}. A variance is an average of squares."
            )
        return array

    @staticmethod
    def _to_json(value: np.ndarray, widget: Any) -> Any:
        del widget

        def plain(part: Any) -> Any:
            if isinstance(part, list):
                return [plain(each) for each in part]
            # The fewest digits that name the float32 number.
            return float(str(np.float32(part))) if np.isfinite(part) else str(part)

        return plain(value.tolist())

    @staticmethod
    def _from_json(value: Any, widget: Any) -> np.ndarray:
        del widget
        return np.array(value, np.float32)


class ExplorerWidget(anywidget.AnyWidget):
    """The explorer in a notebook; `bnm.Explorer` makes one and says what its traits are."""

    _esm = page.script_file().read_text(encoding="utf-8")
    # In a notebook the page around it is not ours: its colours are the widget's own.
    _css = family_style(".bnm-explorer") + page.style()

    x = _Array(2)
    gamma = _Array(1)
    beta = _Array(1)
    moving_mean = _Array(1)
    moving_variance = _Array(1, least=0)
    epsilon = traitlets.Float(1e-3).tag(sync=True)
    address = traitlets.Unicode("#batch").tag(sync=True)
    # What the page has beside its own arithmetic.
    _data = traitlets.Dict().tag(sync=True)

    def __init__(self, x: Any = _X, **traits: Any) -> None:
        array = np.array(x, np.float32)
        channels = array.shape[-1] if array.ndim else 1
        starts = {name: np.full(channels, fill) for name, fill in _FILL.items()}
        for name in _FILL:
            if name in traits:
                traits[name] = np.broadcast_to(np.float32(traits[name]), (channels,))
        super().__init__(x=x, **{**starts, **traits}, _data={"network": stored_run()})

    @traitlets.validate("epsilon")
    def _positive(self, proposal: Any) -> float:
        epsilon = proposal["value"]
        if not 0 < epsilon < np.inf:
            raise traitlets.TraitError(
                f"Explorer: `epsilon` must be a positive number. Received: epsilon={epsilon!r}. "
                "It keeps a channel of zero variance finite; Keras uses 1e-3, PyTorch 1e-5."
            )
        return epsilon

    @traitlets.observe("x")
    def _fit(self, change: Any) -> None:
        """Give each channel its parameters: the page does the same, but not before it shows."""
        del change
        channels = self.x.shape[1]
        for name, fill in _FILL.items():
            old = getattr(self, name)
            if len(old) != channels:
                new = np.full(channels, fill, np.float32)
                new[: len(old)] = old[:channels]
                setattr(self, name, new)

    @property
    def y(self) -> np.ndarray:
        """What `bnm.forward` makes of x: the output in training, float32 in the shape of x."""
        y, _ = forward(self.x, self.gamma, self.beta, axes=[0], epsilon=self.epsilon)
        return y.numpy()

    @property
    def y_inference(self) -> np.ndarray:
        """What `bnm.infer` makes of x with the moving statistics, likewise."""
        moving = (self.moving_mean, self.moving_variance, self.gamma, self.beta)
        return infer(self.x, *moving, axes=[0], epsilon=self.epsilon).numpy()

    def picture(self) -> str:
        """Return x and both outputs as a picture (SVG), for where no JavaScript runs."""
        return (
            templates(_TEMPLATES)
            .get_template("picture.svg.jinja")
            .render(
                grids=[
                    ("Input x", _cells(self.x)),
                    ("Output y, training", _cells(self.y)),
                    ("Output y, inference", _cells(self.y_inference)),
                ],
                rows=self.x.shape[0],
                columns=self.x.shape[1],
                epsilon=self.epsilon,
            )
        )

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        found = super()._repr_mimebundle_(**kwargs)
        if found is None:
            return None
        data, metadata = found
        return {**data, "image/svg+xml": self.picture()}, metadata


def _cells(array: np.ndarray) -> list[list[tuple[str, str, float]]]:
    """Return each number's text, its colour, and how strong that is."""
    sizes = np.abs(array)[np.isfinite(array)]
    largest = sizes.max(initial=0.0) or 1.0
    return [
        [
            (
                f"{value:.5g}".replace("-", "−"),
                "#b04500" if value < 0 else "#1f6fb2",
                round(0.04 + 0.24 * float(abs(value)) / largest, 3) if np.isfinite(value) else 0.0,
            )
            for value in row
        ]
        for row in array
    ]

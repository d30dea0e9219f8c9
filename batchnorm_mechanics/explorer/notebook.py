"""The front door of the explorer in a notebook, which says what is missing where it is."""

from typing import TYPE_CHECKING, Any

from batchnorm_mechanics._exceptions import InputError

if TYPE_CHECKING:
    from batchnorm_mechanics.explorer.widget import ExplorerWidget


def Explorer(x: Any = None, **traits: Any) -> "ExplorerWidget":  # noqa: N802 - it makes a widget
    """Return the explorer as a widget for a notebook.

    What is changed on the page is read from its traits, and a trait that is set changes the page.
    Where no JavaScript runs, a picture of the batch and both outputs stands in its place.

    In pages that nbconvert makes, the picture stands if the notebook was run without storing the
    widgets' state (nbclient's `store_widget_state=False`). With the state, nbconvert puts the
    widget there and nothing else: it loads scripts from another host, and shows nothing where that
    cannot be reached. `IPython.display.SVG(explorer.picture())` puts the picture beside it.

    An address says the whole state of a room, that of the first one with x and all its traits. Of
    what a cell sets, the last word holds.

    Args:
        x: the batch of the first room, numbers of shape (samples, channels), at most 16 x 8; by
            default [[1, 2, 3], [4, 5, 6]].
        **traits: what else it begins with: `gamma`, `beta`, `moving_mean` and `moving_variance`,
            for each channel or one number for all; `epsilon`; `address`, such as
            "#gradients?throughMean=no", which names a room and its whole state as the page's own
            address does.

    Returns:
        A widget with these traits, and with `y` and `y_inference`: float32 arrays in the shape of
        x, what `bnm.forward` and `bnm.infer` make of them.

    Raises:
        InputError: anywidget is not installed.

    Example:
        >>> explorer = Explorer([[1.0], [3.0]], gamma=1.0, beta=0.0)
        >>> explorer.x = [[10.0], [30.0]]
        >>> explorer.y.round(3).tolist()
        [[-1.0], [1.0]]
    """
    try:
        from batchnorm_mechanics.explorer.widget import ExplorerWidget
    except ModuleNotFoundError as error:
        if error.name not in ("anywidget", "ipywidgets", "traitlets"):
            raise
        raise InputError(
            "Explorer: anywidget must be installed for the widget. Received: no module "
            f"{error.name!r}. Install it: pip install 'batchnorm-mechanics[notebook]'; without a "
            "notebook, `bnm explore` writes the same page."
        ) from error
    return ExplorerWidget(**traits) if x is None else ExplorerWidget(x, **traits)

"""Arrays and numbers as people read them, in a given width."""

import numpy as np

# An array of more numbers is abridged; the source's larger example has so many.
_FEW = 24


def shown(value: np.ndarray, width: int) -> str:
    """Return an array as NumPy writes it, large ones abridged, in lines of at most this width.

    Args:
        value: of any dtype.
        width: in columns; one number may need up to some 20.

    Returns:
        Lines of text. What is left out stands as "..."; the reader needs the shape beside it.

    Example:
        >>> print(shown(np.array([[1.0, 2.5], [3.0, 4.0]], np.float32), 40))
        [[1.  2.5]
         [3.  4. ]]
    """
    if value.dtype.kind == "V":
        # bfloat16 is no type of NumPy's own, and prints as text otherwise; float32 holds it all.
        value = value.astype(np.float32)
    if not value.size:
        return "no values"
    text = np.array2string(
        value,
        max_line_width=width,
        threshold=_FEW,
        # With many axes even two from each end are a page.
        edgeitems={0: 3, 1: 3, 2: 2}.get(value.ndim, 1),
        separator=" ",
        precision=_digits(value),
    )
    # NumPy parts blocks by empty lines; the brackets do that well enough.
    return "\n".join(line for line in text.splitlines() if line.strip())


def _digits(value: np.ndarray) -> int:
    """Return how many decimals show seven digits or so, also of numbers that are all small."""
    sizes = np.abs(value[np.isfinite(value)].astype(np.float64))
    largest = np.max(sizes, initial=0.0)
    return 7 + (int(min(-np.floor(np.log10(largest)) - 1, 30)) if 0 < largest < 1 else 0)


def error_text(value: float) -> str:
    """Return an error with three digits.

    Example:
        >>> error_text(0.0), error_text(1.23456e-7), error_text(float("inf"))
        ('0', '1.23e-07', 'inf')
    """
    return f"{value:.3g}"


def ulps_text(value: float) -> str:
    """Return a number of ULPs, which needs no more than one decimal.

    Example:
        >>> ulps_text(0.5), ulps_text(12.0), ulps_text(1.5e7)
        ('0.5', '12', '1.5e+07')
    """
    if not value < 1e5:  # NaN too
        return f"{value:.2g}"
    return f"{value:.1f}".removesuffix(".0")


def dimensions(shape: tuple[int, ...], dtype: str) -> str:
    """Return shape and dtype in short.

    Example:
        >>> dimensions((2, 3), "float32"), dimensions((), "float64")
        ('(2, 3) float32', 'scalar float64')
    """
    if not shape:
        return f"scalar {dtype}"
    return f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''}) {dtype}"

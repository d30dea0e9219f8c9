"""Small words of sentences and tables."""

from collections.abc import Sequence


def join(parts: Sequence[str], word: str = "and") -> str:
    """Join as a sentence does.

    Example:
        >>> join(["a", "b", "c"])
        'a, b and c'
    """
    return f" {word} ".join(filter(None, [", ".join(parts[:-1]), parts[-1]]))


def signed(value: float) -> str:
    """Write a number with its sign and two digits, and zero without a sign.

    Example:
        >>> signed(1.5), signed(-0.001)
        ('+1.50', '0.00')
    """
    rounded = round(value, 2)
    return f"{rounded:+.2f}" if rounded else "0.00"


def count(number: int, noun: str) -> str:
    """Write a number with its noun.

    Example:
        >>> count(1, "seed"), count(3, "seed")
        ('1 seed', '3 seeds')
    """
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def capital(text: str) -> str:
    """Begin a sentence.

    Example:
        >>> capital("our layer")
        'Our layer'
    """
    return text[:1].upper() + text[1:]

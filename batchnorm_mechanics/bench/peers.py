"""Which libraries can take part here."""

from importlib.util import find_spec

# The peers that need not be installed, and what each needs.
PEERS = {"tf_keras": ("tf_keras",), "torch": ("torch",), "flax": ("jax", "flax")}


def missing_peers() -> list[str]:
    """Return the peers that are not installed, without importing any.

    Example:
        >>> set(missing_peers()) <= set(PEERS)
        True
    """
    return [peer for peer, needs in PEERS.items() if not all(map(find_spec, needs))]

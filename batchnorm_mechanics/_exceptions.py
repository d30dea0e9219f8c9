"""The two ways in which a command ends badly; `cli` gives each its exit code."""


class InputError(ValueError):
    """What a user gave cannot be used; the message says what was expected and what to do."""


class FailureError(RuntimeError):
    """Work failed through no fault of its input; the message says how, and what is kept."""

"""How a command ends, as POSIX and `git` have it."""

FAILED = 1
BAD_INPUT = 2
INTERRUPTED = 130

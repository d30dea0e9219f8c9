"""How a command ends, as POSIX and `git` have it."""

FAILED = 1
BAD_INPUT = 2
# By Ctrl-C; by another signal it is 128 and that signal's number.
INTERRUPTED = 130

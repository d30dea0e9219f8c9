"""What can be judged: the built-in implementations, and a user's own layer or function."""

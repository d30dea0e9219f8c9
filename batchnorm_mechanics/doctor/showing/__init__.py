"""A diagnosis in words, for the terminal and as a page."""

"""Models and data in files: safely in, and whole or not at all out."""

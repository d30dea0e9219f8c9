"""Models and data for them: opened, looked at as graphs, and copied with some layers other."""

"""The rules: pure functions from weights, graphs and measurements to findings."""

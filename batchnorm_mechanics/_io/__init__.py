"""Reading, writing and showing: one way of each for all parts, and nothing of any part."""

"""Find and repair what batch norm does wrong in a model."""

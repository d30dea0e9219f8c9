"""The parts of `fold`: arithmetic, kinds of layers, the plan, the new model, and its check."""

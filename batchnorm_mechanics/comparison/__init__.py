"""Two models, stage by stage: where their values part, and whether batch norm is why."""

"""Merge batch norm into the layers around it, for models that predict faster."""

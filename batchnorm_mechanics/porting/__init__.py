"""Carry batch norm from other libraries into Keras's layers."""

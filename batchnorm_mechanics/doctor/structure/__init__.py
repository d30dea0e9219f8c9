"""What a Keras model consists of, as far as batch norm is concerned."""

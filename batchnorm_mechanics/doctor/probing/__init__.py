"""What data say of a model: it is run, and its batch norm layers are listened to."""

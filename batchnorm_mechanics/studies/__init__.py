"""The MNIST studies: settings, data, networks, training, and what the results say."""

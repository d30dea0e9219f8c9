"""page"""


def summary(record):
    return []

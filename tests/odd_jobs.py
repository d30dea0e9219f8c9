"""What tests have worker processes do. They import this module by its name."""

import os
import time

from batchnorm_mechanics._exceptions import InputError
from batchnorm_mechanics._workers import tell


class Host:
    def __init__(self):
        self.calls = 0

    def count(self):
        self.calls += 1
        return self.calls

    def pid(self):
        return os.getpid()

    def raise_something(self):
        raise LookupError("no such thing")

    def refuse(self):
        raise InputError("It cannot be used.")

    def exit(self, code):
        os._exit(code)

    def kill(self, number):
        os.kill(os.getpid(), number)

    def hang(self):
        time.sleep(600)

    def tell_twice(self):
        tell("first")
        tell("second")
        return "third"

    def print(self):
        print("this must not be taken for a result")


class BrokenHost:
    def __init__(self):
        raise OSError("nothing to load")

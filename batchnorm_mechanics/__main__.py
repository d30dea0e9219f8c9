"""`python -m batchnorm_mechanics` is `bnm`."""

from batchnorm_mechanics.cli import main

main()

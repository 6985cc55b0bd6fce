"""What people run: the command line, its options, the composition of the steps, publishing and verifying."""

__version__ = "0.1.0"

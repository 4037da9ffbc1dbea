"""The version of the package, which the build and :data:`kpdeform.__version__` take from here."""

__version__ = "0.1.0"

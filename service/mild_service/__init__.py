"""The selection service: correctness bits in over HTTP, clean index sets out."""

from importlib.metadata import version

__version__ = version("mild-selection")

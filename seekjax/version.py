"""The version of this package; setuptools reads it from here."""

__version__ = "0.2.0"

"""The one error of this package."""


class DataError(ValueError):
    """Something is wrong with the data or its settings; the message says what, where, and what to
    do about it."""

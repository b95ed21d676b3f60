"""Models in use: the terminal commands."""

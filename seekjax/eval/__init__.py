"""Measuring models: bits per byte of any text."""

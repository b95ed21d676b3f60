"""Measuring models: bits per byte of any text, and the share of problems that they solve."""

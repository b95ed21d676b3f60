"""Rollouts: sampling groups of answers, grading them, and recording both."""

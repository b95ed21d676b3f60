"""Continuous batching: requests of token ids join and leave a running batch, over a paged cache."""

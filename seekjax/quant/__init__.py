"""Weights in few bits: the formats and the products with them."""

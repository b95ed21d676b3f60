"""Tokens out of a model. It knows token ids only."""

"""Checkpoints of a run: written whole or not at all, verified, and read back on any mesh."""

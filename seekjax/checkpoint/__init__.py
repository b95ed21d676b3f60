"""Checkpoints of a run: written atomically, verified, and read back on any mesh."""

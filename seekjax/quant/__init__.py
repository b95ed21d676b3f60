"""Numbers of few bits: weights as they are stored, and the tiles of training in FP8."""

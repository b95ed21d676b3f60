"""Fast forms of the few operations that need one, each next to its plain form: arrays in, arrays
out.
"""

"""Fast forms of the few operations that need one, each beside its plain form: arrays in, arrays
out."""

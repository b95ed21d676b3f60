"""The papers' equations in NumPy, float64, one token and one head at a time: slow, short and
independent of the JAX code they judge."""

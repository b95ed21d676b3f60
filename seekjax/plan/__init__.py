"""What a run of any size needs, from its config alone and without one array: counts, memory,
advice."""

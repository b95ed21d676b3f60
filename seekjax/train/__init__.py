"""Training: state, loss, optimizer, step, loop, checkpoints, and the schedules that move with the
tokens seen.
"""

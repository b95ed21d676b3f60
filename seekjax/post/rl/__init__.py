"""Reinforcement learning on verifiable answers: GRPO and its relatives."""

"""Supervised fine-tuning, expert-specialised fine-tuning and direct preference optimisation."""

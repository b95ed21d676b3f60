"""Post-training: supervised fine-tuning, reinforcement on verifiable answers, preference tuning and
distillation (DeepSeek-R1, 2501.12948).
"""

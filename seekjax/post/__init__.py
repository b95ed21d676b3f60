"""Post-training: everything that follows pre-training (DeepSeek-R1, 2501.12948).

samples   conversations, solved problems and preference pairs as tokens
tune      supervised fine-tuning, chosen experts, direct preference optimisation
distill   a teacher's probabilities, of given texts or of the student's own answers
rollout   drawing groups of answers, grading them, recording both
rl        reinforcement: objectives, the check before a run, GRPO and its relatives
kinds     which of these a config asks for
plots     the pictures of a run
"""

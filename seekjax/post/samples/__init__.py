"""Conversations, solved problems and preference pairs as training samples."""

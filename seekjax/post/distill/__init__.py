"""Learning from a teacher's probabilities, of given texts or of the student's own."""

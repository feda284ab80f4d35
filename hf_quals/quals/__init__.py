"""QUALS: a score of a summary against its document, made of QAGen's probabilities alone."""

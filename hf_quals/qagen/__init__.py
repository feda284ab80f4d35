"""QAGen: one neural model that reads a text and writes question–answer pairs about it."""

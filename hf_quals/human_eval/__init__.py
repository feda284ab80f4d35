"""Blinded studies in which people say which of two systems' summaries is better."""

"""Contrastive training: what the score is for."""

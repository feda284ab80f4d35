"""Rows of files: scored one by one, and systems compared before several judges."""

"""The judges of summaries, a file each: QUALS, QAGS, FactCC, ROUGE, and names and numbers."""

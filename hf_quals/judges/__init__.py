"""The judges that the score is compared with: QAGS, FactCC, ROUGE, and names and numbers."""

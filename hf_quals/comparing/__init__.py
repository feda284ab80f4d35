"""Systems' summaries of the same documents before several judges."""

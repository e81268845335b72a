"""The floor of the tracing words that stand on a run; one file a word."""

"""The floor that knows transformers. Importing it is the opt-in."""

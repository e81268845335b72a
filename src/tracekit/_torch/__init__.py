"""The floor that knows PyTorch: hooks, values, modes, the module tree."""

"""The floor that knows the live interpreter: frames, monitoring, rewritten calls. No torch."""

"""The floor that knows generators: runs bodies in step with a model. No torch, no bytecode."""

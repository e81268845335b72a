"""The floor that knows code objects, as data. No live frame; no torch."""

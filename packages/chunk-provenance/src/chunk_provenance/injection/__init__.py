"""Injected items: texts of one's own that some updates train on beside, or instead of, their chunks."""

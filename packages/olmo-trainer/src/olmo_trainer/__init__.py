"""Pretraining whose every batch can be named afterwards, and probes asked of every checkpoint."""

"""Pretraining with continuous concepts from sparse autoencoders."""

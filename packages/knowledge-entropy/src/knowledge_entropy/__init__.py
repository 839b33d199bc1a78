"""How widely a language model spreads over its memories, per checkpoint."""

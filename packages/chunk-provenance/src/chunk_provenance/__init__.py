"""Training chunks that remember which text they came from and at which step they were trained on."""

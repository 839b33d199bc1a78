"""Model merging as an algebra over checkpoints, streamed in constant memory."""

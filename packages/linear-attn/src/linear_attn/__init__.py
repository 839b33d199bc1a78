"""Softmax attention made recurrent (SUPRA): conversion, up-training, generation in constant memory."""

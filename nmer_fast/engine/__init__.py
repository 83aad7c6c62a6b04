"""Batches, teacher, training, evaluation, checkpoints."""

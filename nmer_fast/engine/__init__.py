"""The training engine: batches, training of teacher and system, evaluation, checkpoints."""

"""What train_throughput.py measures, a file for each question: time, operations and arithmetic, memory, growth."""

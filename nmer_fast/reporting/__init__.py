"""What a sweep's rows say: statistics, the paper's tables, and their forms."""

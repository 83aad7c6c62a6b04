"""What prepare does besides converting: a look inside a feature set, and audio features from wavs."""

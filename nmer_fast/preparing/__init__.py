"""What `prepare` does beside conversion: it inspects feature sets, draws inspections, and computes audio features."""

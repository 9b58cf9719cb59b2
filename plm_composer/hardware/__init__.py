"""What processors can do, the precision they work in, and how processes share a model."""

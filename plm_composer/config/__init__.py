"""A run's config: its keys, the merging of YAML, recipes and command line, and the names that it may use."""

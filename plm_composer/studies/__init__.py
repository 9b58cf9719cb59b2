"""Studies: variants of a recipe at equal cost over several seeds, and what they came to. See ``docs/studies.md``."""

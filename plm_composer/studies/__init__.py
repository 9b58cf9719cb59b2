"""Studies: variants of a recipe at equal cost over several seeds, and their results. See ``docs/studies.md``."""

"""Zero-shot effects of mutations, as ProteinGym evaluates them."""

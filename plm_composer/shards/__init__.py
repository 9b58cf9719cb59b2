"""Writing: FASTA files and Hugging Face datasets become MDS shards with a manifest.

The path of a protein is ``fasta``/``rows`` (blocks of text) -> ``cleaning`` (record rules, split) -> ``writing``
(shards) -> ``manifest``; ``parallel`` keeps the order whatever the number of processes, ``staging`` publishes all or
nothing, ``convert`` puts it together.
"""

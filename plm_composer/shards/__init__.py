"""Converts FASTA files and Hugging Face datasets to MDS shards with a manifest.

A protein passes through ``fasta`` or ``rows`` (blocks of text) -> ``cleaning`` (record rules) -> ``split`` ->
``writing`` (shards) -> ``manifest``. ``convert`` has the entry points, ``pipeline`` joins the steps, ``parallel`` keeps
the order for any number of threads, and ``staging`` publishes all or nothing. Nothing here imports torch.
"""

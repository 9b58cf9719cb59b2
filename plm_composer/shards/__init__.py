"""Writing: FASTA files and Hugging Face datasets become MDS shards with a manifest.

The path of a protein is ``fasta``/``rows`` (blocks of text) -> ``cleaning`` (record rules) -> ``records`` (split) ->
``mds``, ``writing`` (shards) -> ``manifest``. ``parallel`` keeps the order whatever the number of threads, ``staging``
publishes all or nothing, ``pipeline`` puts it together, ``convert`` is the way in. Nothing here imports torch.
"""

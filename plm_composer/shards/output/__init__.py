"""Records to shard files, index and manifest, in a folder or a store."""

"""Writes records as shard files, indexes and a manifest, to a folder or an object store."""

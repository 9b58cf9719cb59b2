"""Reads shards and makes cropped, masked, packed batches."""

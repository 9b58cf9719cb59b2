"""Reading: shards to cropped, masked, packed batches."""

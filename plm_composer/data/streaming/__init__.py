"""Reading shards: the StreamingDataset, and what it corrects of streaming."""

"""Reads shards: the StreamingDataset, and corrections of streaming."""

"""What commands show on stderr beside their results: progress, and warnings."""

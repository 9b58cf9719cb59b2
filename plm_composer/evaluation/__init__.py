"""The pinned evaluation: one protocol, whose losses may be compared."""

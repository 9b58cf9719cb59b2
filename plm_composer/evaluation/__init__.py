"""The pinned evaluation: one protocol, whose losses are comparable."""

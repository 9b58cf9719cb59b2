"""Files: written completely or not at all, with the usual permissions, and replacing only our own; and formats."""

"""Writing files so that nothing is lost: whole or not at all, with the usual permissions, and over our own alone."""

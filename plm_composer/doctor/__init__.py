"""``plm doctor``: facts about this machine and its packages, and what is wrong with them."""

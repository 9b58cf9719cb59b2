"""Code that an export of a variant carries, so that ``transformers`` loads it without this package.

Nothing here imports the package, and the package imports nothing from here: it copies the files.
"""

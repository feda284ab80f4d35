"""Errors that mean "mend what was given and try again": a command shows their message, and no traceback.

A message names an argument in backticks, `overwrite=True`, which a command turns into its option, --overwrite.
"""


class InputError(ValueError):
    """Bad input; the message names the file, the line or row, and the column."""


class PublishError(ValueError):
    """What is to be published is not fit for it, or the Hub refused it; the message says what to mend."""

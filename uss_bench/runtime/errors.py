"""The one error that is the user's to correct."""


class InputError(ValueError):
    """The user's input is at fault. The message says what is wrong, where, and how to correct it.

    The command line prints the message alone, without a traceback, and exits with code 2.
    """

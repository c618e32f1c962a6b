"""The one exception that means "the input is wrong", as opposed to "the program is wrong"."""


class InputError(ValueError):
    """Bad input, told in one sentence: what was given, what was expected, what to do.

    The command line prints the sentence and exits with code 2; the server answers it with a 4xx status.
    Anything else that escapes is a bug and keeps its traceback.
    """

"""What can go wrong, in one sentence that says what to do."""


class RefineError(Exception):
    """Its text is for the user: what was found, what was expected, what to do."""


class Unreachable(RefineError):
    """The server does not answer, or went away half-way."""


class LoginNeeded(RefineError):
    """401: the server wants to know who is asking."""


class Busy(RefineError):
    """429: every place is taken; `seconds` is when to try again."""

    def __init__(self, text: str, seconds: float) -> None:
        super().__init__(text)
        self.seconds = seconds

"""What a client is told when something is refused: a status and one sentence."""

from rnca import InputError


class Refusal(Exception):
    """A request that is not carried out.

    Args:
        status: of HTTP, 4xx or 503.
        sentence: what was given, what is expected, what to do; without names of files or folders of the server.
        retry_after: seconds after which it is worth trying again.
    """

    def __init__(self, status: int, sentence: str, retry_after: int | None = None) -> None:
        super().__init__(sentence)
        self.status, self.sentence, self.retry_after = status, sentence, retry_after


class Left(Exception):
    """The client has closed the connection: nobody reads what would come."""


def told(error: BaseException) -> tuple[int, str]:
    """Status and sentence for an exception; what is not the client's doing is 500 without details."""
    if isinstance(error, Refusal):
        return error.status, error.sentence
    if isinstance(error, InputError):
        return 400, str(error).rstrip(".") + "."
    if isinstance(error, MemoryError) or "allocate memory" in str(error) or "out of memory" in str(error):
        return 413, "not enough memory for this: give a region of interest (roi), or a smaller image."
    return 500, "the server failed on this request; its log has the details."

"""The one error of bad data, and how it is found again in what a runner raises."""

import re


class DataError(ValueError):
    """Data, files or a work directory that cannot be used; the message says which, and why.

    Raised before a job starts wherever that is possible, else by a worker: runners then hand it to
    the driver wrapped in an error of their own, sometimes as text alone (`message_of`).
    """


_IN_TEXT = re.compile(
    r"beam_kmeans\.errors\.DataError: (.*?)(?: \[while running |\n\n|\\n|\Z)", re.DOTALL
)


def message_of(error: BaseException) -> str | None:
    r"""The message of the `DataError` behind what a runner raised, None where there is none.

    Portable runners give the worker's traceback as text, and Beam adds the step's name in brackets.

    Example:
        >>> message_of(RuntimeError("beam_kmeans.errors.DataError: no rows [while running 'A']"))
        'no rows'
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, DataError):
            return re.sub(r" \[while running .*\]\s*\Z", "", str(cause), flags=re.DOTALL)
        found = _IN_TEXT.search(str(cause))
        if found:
            return found.group(1).strip()
        cause = cause.__cause__ or cause.__context__
    return None

"""A failed download, as an error that says what to do: name, access, space, the drive or the network.

Classes are told by name: `huggingface_hub` has changed its HTTP library between releases. No text of an HTTP error
is repeated: it may hold a signed address.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

from qvl_run.contract import StageError
from qvl_run.units import show_size

_FULL = {errno.ENOSPC, errno.EDQUOT}
_DRIVE = {errno.ENOTCONN, errno.EIO, errno.ESTALE, errno.ENODEV, errno.EHOSTDOWN}
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}
_ABSENT = {"LocalEntryNotFoundError", "OfflineModeIsEnabled"}
_NETWORK = {"TransportError", "ConnectionError", "HfHubHTTPError", "TimeoutError", "HTTPError"}

ROOM_ADVICE = "free some space there, set HF_HOME or storage.drive to a larger disk, or choose a smaller {kind}"


def no_space(repo: str, *, kind: str, folder: Path, need: int, free: int) -> StageError:
    """The disk of `folder` cannot hold the `need` bytes that are missing."""
    return StageError(
        f"the {kind} {repo} needs {show_size(need)} more in {folder}, which has {show_size(free)} left: "
        + ROOM_ADVICE.format(kind=kind),
        failure="disk",
    )


def explained(
    error: BaseException, repo: str, *, kind: str, revision: str | None, folder: Path
) -> StageError | None:
    """What `error`, raised while `repo` (a "model" or "data set") was downloaded to `folder`, means for the user;
    None where it is none of a download's failures."""
    subject = f"the {kind} {repo} cannot be downloaded"
    for cause in _chain(error):
        if isinstance(cause, StageError):
            return cause
        found = _one(cause, repo, kind=kind, revision=revision, folder=folder)
        if found is not None:
            failure, why = found
            return StageError(f"{subject}: {why}", failure=failure)  # type: ignore[arg-type]
    return None


def _one(
    error: BaseException, repo: str, *, kind: str, revision: str | None, folder: Path
) -> tuple[str, str] | None:
    names = _names(error)
    status = getattr(getattr(error, "response", None), "status_code", None)
    page = f"https://huggingface.co/{'' if kind == 'model' else 'datasets/'}{repo}"
    if names & _ABSENT:
        return "download", _absent(error)
    if "WrongContent" in names:
        return "download", f"{error}, twice: the network, a proxy or a mirror may change it"
    # `datasets` keeps of a refusal no more than its words.
    gated = "DatasetNotFoundError" in names and "is a gated dataset" in str(error)
    if "GatedRepoError" in names or status == 403 or gated:
        return (
            "config",
            f"access was refused: accept its terms at {page} and set HF_TOKEN to a token that may read it",
        )
    if "DatasetNotFoundError" in names and "Revision" in str(error):
        return "config", f"it has no revision {revision}: check the spelling of revision"
    if names & {"RepositoryNotFoundError", "DatasetNotFoundError"}:
        return "config", (
            "the hub knows no such name, or this account may not see it: check the spelling; if it is private or has "
            f"terms to accept, see {page} and set HF_TOKEN"
        )
    if status == 401:
        return (
            "config",
            (
                "the hub did not accept the token, or shows that name to few: check the spelling, set HF_TOKEN to "
                f"a valid token, and see {page} for terms to accept"
            ),
        )
    if "RevisionNotFoundError" in names:
        return "config", f"it has no revision {revision}: check the spelling of revision"
    if "EntryNotFoundError" in names:
        return "config", "the hub no longer has one of its files: check its revision"
    if "HFValidationError" in names:
        return (
            "config",
            "it is neither a folder here nor a name on the hub, which has the form owner/name",
        )
    if status is not None:
        return "download", f"the hub answered with HTTP status {status}; this may pass"
    if is_full(error):
        return "disk", f"the disk of {folder} is full: " + ROOM_ADVICE.format(kind=kind)
    if isinstance(error, OSError) and error.errno in _DRIVE:
        return (
            "download",
            f"{folder} does not answer ({error.strerror}): if it is a drive, mount it again",
        )
    if isinstance(error, OSError) and error.errno in _FORBIDDEN:
        return (
            "config",
            f"{error.filename or folder} cannot be written: set HF_HOME to a folder that can",
        )
    if isinstance(error, FileNotFoundError):
        return None
    if names & _NETWORK or (isinstance(error, OSError) and error.errno is not None):
        text = " ".join(str(error).split())[:200] if "://" not in str(error) else ""
        return (
            "download",
            f"the connection failed ({type(error).__name__}{': ' * bool(text)}{text})",
        )
    return None


def is_full(error: BaseException) -> bool:
    """Whether a disk has no room left; `datasets` and Arrow say it in words alone."""
    if not isinstance(error, OSError):
        return False
    return (
        error.errno in _FULL
        or "Not enough disk space" in str(error)
        or "No space left" in str(error)
    )


def last_words(tries: int, *, folder: Path, free: int, listed: bool) -> str:
    """What is known about a download that has failed `tries` times in a row."""
    access = (
        "the hub has listed it, so its name and your access are in order"
        if listed
        else ("the hub has never listed it: check its name, your access and the network")
    )
    return f". It failed {tries} times in a row; {access}; {folder} has {show_size(free)} left"


def _absent(error: BaseException) -> str:
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set, and it is not whole in the cache: unset it once to download"
    network = next((e for e in _chain(error) if {"TransportError"} & _names(e)), None)
    more = f" ({type(network).__name__})" if network else ""
    return f"the hub cannot be reached{more}, and it is not whole in the cache"


def _names(error: BaseException) -> set[str]:
    return {cls.__name__ for cls in type(error).__mro__}


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """`error` and what it came from."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__

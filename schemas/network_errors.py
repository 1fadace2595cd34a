"""Which errors of a pass are of the network between ranks, and not of the model that runs."""

# What gloo's errors say where another rank is gone; they are plain RuntimeErrors.
_OF_GLOO = ("gloo/", "by peer", "remote worker", "Broken pipe")
# torch's base class of what NCCL and the store say. By its name, since commands without torch come here too.
_OF_TORCH = "DistError"


def is_of_network(error: BaseException) -> bool:
    """True for an error of gloo, NCCL or torch's store: another rank has ended or cannot be reached."""
    if not isinstance(error, RuntimeError):
        return False
    names = [kind.__name__ for kind in type(error).__mro__]
    return _OF_TORCH in names or any(words in str(error) for words in _OF_GLOO)

"""What can be wrong with a pod's network."""


class NetworkError(Exception):
    """The pod's network cannot be given to the guest; the text names cause and remedy."""

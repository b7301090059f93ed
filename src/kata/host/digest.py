"""Digests of short texts, for names."""


def sha256_of_text(text: str) -> str:
    """Return the SHA-256 of a text in hexadecimal digits.

    For the content of files use hashlib, which is many times faster, once OpenSSL is loaded.
    """
    try:  # what hashlib has where there is no OpenSSL, which takes 2 MiB and 5 ms
        from _sha256 import sha256  # type: ignore[import-not-found]
    except ImportError:
        from hashlib import sha256

    digits: str = sha256(text.encode()).hexdigest()
    return digits

"""The error of every file that cannot be used."""


class FileError(ValueError):
    """A file that is missing, broken or of another kind; the message says where, what was expected and what came."""

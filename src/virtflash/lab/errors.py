"""What can go wrong in the laboratory."""


class LabError(Exception):
    """An experiment that cannot be run, or not to its end; one line that says why, and what to do."""

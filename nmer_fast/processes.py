"""placeholder until merge"""


def warn_shared_noise() -> None: ...

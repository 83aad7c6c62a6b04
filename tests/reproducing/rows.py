"""Rows as a sweep's table has them, made up."""

CONDITIONS = ("a", "v", "l", "av", "al", "vl", "none", "all")


def row(system, condition, wa, *, noise="gaussian", snr_db=-10.0, fold=None, seed=0, n=100, **others):
    """One; UA is WA less 0.1."""
    return {
        "run": f"{system}_{noise}_{snr_db}_{fold}_{seed}", "system": system, "noise": noise, "snr_db": snr_db, "fold": fold,
        "seed": seed, "condition": condition, "wa": wa, "ua": wa - 0.1, "f1": wa - 0.2, "n": n, **others,
    }  # fmt: skip


def run(system, wa, **axes):
    """A row for each condition: WA by condition, or one for all."""
    values = wa if isinstance(wa, dict) else dict.fromkeys(CONDITIONS, wa)
    return [row(system, condition, value, **axes) for condition, value in values.items()]

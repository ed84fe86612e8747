"""Entry point of `panic-tda` and of `python -m panic_tda`."""

import sys


def run() -> None:
    """Run the program; exit with 130 on Ctrl-C, also while modules are being imported."""
    try:
        from panic_tda.main import main

        main(prog_name="panic-tda")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    if not sys.flags.safe_path:
        # `-m` puts the working folder first in the module path, where a user may have a click.py.
        # As the last entry it still finds a package that is not installed.
        sys.path.append(sys.path.pop(0))
    run()

"""The entry point of `panic-tda` and `python -m panic_tda`."""

import sys


def run() -> None:
    """Run the command; exit with status 130 after Ctrl-C, also while modules are loaded."""
    try:
        from panic_tda.main import main

        main(prog_name="panic-tda")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    if not sys.flags.safe_path:
        # `-m` searches modules in the working folder first, which may contain, say, a click.py of the user.
        # As the last entry it still allows to run a package that is not installed.
        sys.path.append(sys.path.pop(0))
    run()

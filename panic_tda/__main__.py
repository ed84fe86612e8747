"""`python -m panic_tda`."""

from panic_tda.main import main

main(prog_name="panic-tda")

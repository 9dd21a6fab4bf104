"""`python -m tunfwd.cli`, where the `tunfwd` script is not on the PATH."""

from tunfwd.cli.entry import main

main()

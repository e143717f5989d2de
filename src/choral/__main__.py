"""`python -m choral`."""

from choral.cli import main

if __name__ == "__main__":
    main()

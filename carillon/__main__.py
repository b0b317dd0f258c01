"""`python -m carillon`."""

from carillon.app import main

if __name__ == "__main__":
    main()

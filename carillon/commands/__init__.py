"""What each command does; `carillon.app` says what it takes, and imports these when they are asked for."""

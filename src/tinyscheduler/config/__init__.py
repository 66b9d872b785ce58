"""From the environment, files and the command line to one frozen `Config`."""

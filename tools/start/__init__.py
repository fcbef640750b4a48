"""From a folder of one's own to a config that trains: `python -m tools.start FOLDER`."""

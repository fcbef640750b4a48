"""Random-access data sources, one file each."""

"""Programs that prepare data sets, one file each."""

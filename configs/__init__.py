"""One file a run: `get_config(arg)` returns an ml_collections.ConfigDict."""

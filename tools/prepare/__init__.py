"""Raw data → checked, cleaned, deduplicated and pseudo-labelled tars."""

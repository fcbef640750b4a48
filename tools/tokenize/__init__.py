"""From raw examples to a token store."""

"""The playground: a local page where a person gives a model some modalities and sees what it makes of them."""

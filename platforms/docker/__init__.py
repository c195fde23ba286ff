"""A stack on a Docker engine, as far as it needs no Pulumi: where things are, what runs, how it is reached."""
